//! Kubernetes' libraries, by the tables of their own tests (`k8s.io/apiserver/pkg/cel/library`, Apache-2.0).

use serde_json::json;

use super::super::*;
use super::holds;

fn all_hold(texts: &[&str]) {
    for text in texts {
        assert_eq!(holds(text, &json!({"n": 1})), Ok(true), "{text}");
    }
}

fn all_fail(texts: &[&str]) {
    for text in texts {
        assert_eq!(holds(text, &json!({})), Err(EvaluationError::Failed), "{text}");
    }
}

#[test]
fn every_function_is_called_in_these_tables() {
    use super::super::library::signature::SIGNATURES;
    let tables = concat!(
        include_str!("library.rs"),
        include_str!("rules.rs"),
        include_str!("claims.rs")
    );
    for signature in SIGNATURES {
        let called = format!("{}(", signature.name);
        assert!(tables.contains(&called), "{called}");
    }
}

#[test]
fn addresses() {
    all_hold(&[
        "ip('192.168.0.1').family() == 4",
        "ip('::1').family() == 6",
        "isIP('192.168.0.1') && isIP('2001:db8:3:4::192.0.2.33') && isIP('::1')",
        "!isIP('192.168.0.1.0') && !isIP('300.1.1.1') && !isIP('not-an-ip') && !isIP('')",
        "!isIP('fe80::1%en0') && !isIP('::ffff:192.168.0.1')",
        "!isIP('192.168.01.1')",
        "ip.isCanonical('127.0.0.1') && ip.isCanonical('2001:db8::abcd')",
        "!ip.isCanonical('2001:DB8::ABCD') && !ip.isCanonical('2001:db8::0:0:0:abcd')",
        "ip('127.0.0.1') == ip('127.0.0.1') && ip('127.0.0.1') != ip('10.0.0.1')",
        "ip('2001:db8::abcd') == ip('2001:DB8:0::ABCD')",
        "string(ip('192.168.0.1')) == '192.168.0.1'",
        "string(ip('2001:DB8:0::ABCD')) == '2001:db8::abcd'",
        "ip('0.0.0.0').isUnspecified() && ip('::').isUnspecified() && !ip('127.0.0.1').isUnspecified()",
        "ip('127.0.0.1').isLoopback() && ip('::1').isLoopback() && !ip('1.2.3.4').isLoopback()",
        "ip('224.0.0.1').isLinkLocalMulticast() && !ip('224.0.1.1').isLinkLocalMulticast()",
        "ip('ff02::1').isLinkLocalMulticast() && !ip('fd00::1').isLinkLocalMulticast()",
        "ip('169.254.169.254').isLinkLocalUnicast() && !ip('192.168.0.1').isLinkLocalUnicast()",
        "ip('fe80::1').isLinkLocalUnicast() && !ip('fd80::1').isLinkLocalUnicast()",
        "ip('192.168.0.1').isGlobalUnicast() && !ip('255.255.255.255').isGlobalUnicast()",
        "ip('2001:db8::abcd').isGlobalUnicast() && !ip('ff00::1').isGlobalUnicast()",
    ]);
    all_fail(&[
        "ip('192.168.0.1.0') == ip('::1')",
        "ip.isCanonical('127.0.0.1.0')",
        "isIP(1)",
    ]);
}

#[test]
fn networks() {
    all_hold(&[
        "isCIDR('192.168.0.0/16') && isCIDR('2001:db8::/32') && isCIDR('192.168.0.1/16')",
        "!isCIDR('192.168.0.0/') && !isCIDR('192.168.0.0/33') && !isCIDR('192.168.0.0') && !isCIDR('10.0.0.0/08')",
        "!isCIDR('::ffff:192.168.0.0/112') && !isCIDR('fe80::1%en0/24') && !isCIDR('10.0.0.0/+8')",
        "string(cidr('192.168.0.0/24')) == '192.168.0.0/24'",
        "cidr('192.168.0.0/24').containsIP(ip('192.168.0.1')) && !cidr('192.168.0.0/24').containsIP(ip('192.168.1.1'))",
        "cidr('192.168.0.0/24').containsIP('192.168.0.1') && !cidr('192.168.0.0/24').containsIP('192.168.1.1')",
        "!cidr('0.0.0.0/0').containsIP('::1') && cidr('::/0').containsIP('::1')",
        "cidr('192.168.0.0/16').containsCIDR(cidr('192.168.10.0/24')) && cidr('192.168.0.0/16').containsCIDR('192.168.0.0/16')",
        "!cidr('192.168.1.0/24').containsCIDR('192.168.2.0/24') && !cidr('192.168.1.0/24').containsCIDR('192.168.0.0/16')",
        "cidr('2001:db8::/32').containsCIDR('2001:db8:1::/48')",
        "cidr('192.168.0.1/24').ip() == ip('192.168.0.1')",
        "cidr('192.168.0.0/24').masked() == cidr('192.168.0.0/24')",
        "cidr('192.168.1.5/24').masked() == cidr('192.168.1.0/24') && cidr('192.168.0.1/24') != cidr('192.168.0.1/24').masked()",
        "cidr('192.168.0.0/16').prefixLength() == 16 && cidr('::1/128').prefixLength() == 128",
    ]);
    all_fail(&[
        "cidr('192.168.0.0/') == cidr('::/0')",
        "cidr('192.168.0.0/24').containsIP('192.168.0.1.0')",
        "cidr('192.168.0.0/24').containsCIDR('192.168.0.0')",
    ]);
}

#[test]
fn quantities() {
    all_hold(&[
        "isQuantity('20') && isQuantity('20M') && isQuantity('20Mi') && !isQuantity('20Mo') && !isQuantity('10Mm')",
        "quantity('200M') == quantity('200M') && quantity('200M') == quantity('0.2G') && quantity('0.2G') == quantity('200M')",
        "quantity('2M') == quantity('0.002G') && quantity('2000k') == quantity('2M') && quantity('0.002G') == quantity('2000k')",
        "!(quantity('200M') == quantity('0.3G'))",
        "quantity('50M').isLessThan(quantity('50Mi')) && quantity('50M').isLessThan(quantity('100M'))",
        "!quantity('100M').isLessThan(quantity('50M')) && quantity('50Mi').isGreaterThan(quantity('50M'))",
        "quantity('150Mi').isGreaterThan(quantity('100Mi')) && !quantity('50M').isGreaterThan(quantity('100M'))",
        "quantity('200M').compareTo(quantity('0.2G')) == 0 && quantity('50M').compareTo(quantity('50Mi')) == -1",
        "quantity('50Mi').compareTo(quantity('50M')) == 1",
        "quantity('50k').add(quantity('20')) == quantity('50.02k')",
        "!quantity('50k').add(20).isLessThan(quantity('50020'))",
        "quantity('50k').sub(quantity('20')) == quantity('49.98k') && quantity('50k').sub(20) == quantity('49980')",
        "quantity('50k').add(20).sub(quantity('100k')).asInteger() == -49980",
        "quantity('50k').add(20).sub(quantity('100k')).sub(-50000).asInteger() == 20",
        "quantity('50k').asInteger() == 50000 && quantity('50').isInteger()",
        "!quantity('9999999999999999999999999999999999999G').isInteger()",
        "quantity('9999999999999999999999999999999999999G').isGreaterThan(quantity('9E'))",
        "quantity('50.703k').asApproximateFloat() == 50703.0",
        "quantity('-5').sign() == -1 && quantity('0').sign() == 0 && quantity('100m').sign() == 1",
        "quantity('100m').add(quantity('900m')) == quantity('1')",
        "quantity('1e3') == quantity('1k') && quantity('1E3') == quantity('1000') && quantity('1E') == quantity('1000P')",
        "quantity('0.5Gi') == quantity('512Mi') && quantity('+1') == quantity('1.0')",
        "quantity('0.1n') == quantity('1n')",
    ]);
    all_fail(&[
        "quantity('10Mo') == quantity('1')",
        "quantity('') == quantity('1')",
        "quantity('9999999999999999999999999999999999999G').asInteger() > 0",
        "isQuantity([1, 2, 3])",
    ]);
}

#[test]
fn versions() {
    all_hold(&[
        "semver('1.2.3') == semver('1.2.3') && semver('1.2.3') != semver('1.0.0')",
        "isSemver('1.2.3-beta.1+build.1') && isSemver('0.0.0') && isSemver('1.0.0-alpha-1')",
        "!isSemver('') && !isSemver('v1.0.0') && !isSemver(' 1.0.0') && !isSemver('1. 0.0') && !isSemver('1.0.0 ')",
        "!isSemver('01.01.01') && !isSemver('1') && !isSemver('1.1') && !isSemver('1.0.0-01') && !isSemver('1.0.0+')",
        "!isSemver('', true) && !isSemver(' 1.0.0', true) && !isSemver('1. 0.0', true) && !isSemver('1.0.0 ', true)",
        "isSemver('v1.0.0', true) && isSemver('01.01.01', true) && isSemver('1', true) && isSemver('1.1', true)",
        "semver('v01.01', true) == semver('1.1.0')",
        "semver('1.0.0').isLessThan(semver('1.2.3')) && !semver('1.0.0').isLessThan(semver('1.0.0'))",
        "semver('1.2.3').isGreaterThan(semver('1.0.0')) && !semver('1.0.0').isGreaterThan(semver('1.0.0'))",
        "semver('1.2.3').compareTo(semver('1.2.3')) == 0 && semver('1.0.0').compareTo(semver('1.2.3')) == -1",
        "semver('1.2.3').compareTo(semver('1.0.0')) == 1",
        "semver('1.2.3').major() == 1 && semver('1.2.3').minor() == 2 && semver('1.2.3').patch() == 3",
        "semver('1.0.0-alpha').isLessThan(semver('1.0.0-alpha.1')) && semver('1.0.0-alpha.1').isLessThan(semver('1.0.0-alpha.beta'))",
        "semver('1.0.0-beta.2').isLessThan(semver('1.0.0-beta.11')) && semver('1.0.0-rc.1').isLessThan(semver('1.0.0'))",
    ]);
    all_fail(&["semver('v1.0') == semver('1.0.0')", "isSemver([1, 2, 3])"]);
}

#[test]
fn lists_and_sets() {
    all_hold(&[
        "[1, 2, 3].isSorted() && [1, 1].isSorted() && [].isSorted() && !['b', 'a'].isSorted() && ['a', 'b'].isSorted()",
        "[1, 3].sum() == 4 && [1.0, 3.0].sum() == 4.0 && [].sum() == 0",
        "[1, 3].max() == 3 && [1, 3].min() == 1 && ['a', 'b'].max() == 'b' && [1.5, 0.5].min() == 0.5",
        "['a', 'b', 'b'].indexOf('b') == 1 && ['a', 'b', 'b'].lastIndexOf('b') == 2 && ['a'].indexOf('c') == -1",
        "[[1], [2]].indexOf([2]) == 1",
        "sets.contains([], []) && sets.contains([1], []) && !sets.contains([], [1]) && sets.contains([1, 2, 3, 4], [2, 3])",
        "sets.equivalent([], []) && sets.equivalent([1], [1, 1]) && !sets.equivalent([1], [1, 2])",
        "sets.intersects([1], [1, 2]) && !sets.intersects([1], []) && !sets.intersects([1], [2])",
        "sets.intersects([[1], [2, 3]], [[1, 2], [2, 3]])",
    ]);
    all_fail(&[
        "[].max() == 1",
        "[].min() == 1",
        "[1, 'a'].isSorted()",
        "['a'].sum() == 1",
        "[{}].max() == 1",
        "[1, 'a'].sum() == 1",
    ]);
}

#[test]
fn patterns() {
    all_hold(&[
        "'abc 123'.find('[0-9]+') == '123' && 'abc 123'.find('xyz') == ''",
        "'123 abc 456'.findAll('[0-9]+') == ['123', '456'] && '123 abc 456'.findAll('xyz') == []",
        "'123 abc 456'.findAll('[0-9]+', 1) == ['123'] && '123 abc 456'.findAll('[0-9]+', -1).size() == 2",
        "'123 abc 456'.findAll('[0-9]+', 0) == []",
        "'abc'.matches('^a') && matches('abc', 'c$') && !'abc'.matches('^b')",
        "['ab', 'ac'].all(x, x.matches('^a.$')) && ['ab'].exists(x, x.find('b') == 'b')",
    ]);
}

#[test]
fn urls() {
    all_hold(&[
        "isURL('https://user:pass@example.com:80/path?query=val#fragment') && isURL('/path') && isURL('mailto:a@b')",
        "!isURL('../relative-path') && !isURL('') && !isURL('https://a:x1/') && !isURL('example.com') && !isURL(':8080')",
        "!isURL('http://a b/') && !isURL('http://a/%zz') && !isURL('http://[::1/')",
        "url('https://example.com:80/').getHost() == 'example.com:80' && url('https://example.com/').getHost() == 'example.com'",
        "url('https://[::1]:80/').getHost() == '[::1]:80' && url('https://[::1]/').getHost() == '[::1]'",
        "url('/path').getHost() == '' && url('https://user@example.com/').getHost() == 'example.com'",
        "url('https://example.com:80/').getHostname() == 'example.com' && url('https://127.0.0.1:80/').getHostname() == '127.0.0.1'",
        "url('https://[::1]:80/').getHostname() == '::1' && url('/path').getHostname() == ''",
        "url('https://example.com:80/').getPort() == '80' && url('https://example.com/').getPort() == '' && url('/path').getPort() == ''",
        "url('https://example.com/path').getEscapedPath() == '/path' && url('https://example.com').getEscapedPath() == ''",
        "url('https://example.com/path with spaces/').getEscapedPath() == '/path%20with%20spaces/'",
        "url('https://example.com/a%2Fb').getEscapedPath() == '/a%2Fb'",
        "url('HTTPS://example.com/').getScheme() == 'https' && url('/path').getScheme() == ''",
        "url('https://example.com/path?k1=a&k2=b&k2=c').getQuery() == {'k1': ['a'], 'k2': ['b', 'c']}",
        "url('https://example.com/path?key with spaces=value with spaces').getQuery() == {'key with spaces': ['value with spaces']}",
        "url('https://example.com/path?').getQuery() == {} && url('https://example.com/path#f?k=v').getQuery() == {}",
        "url('https://a/#b') == url('https://a/#b') && url('https://a/') != url('https://b/')",
    ]);
    all_fail(&[
        "url('../relative-path').getHost() == ''",
        "url('https://a:x1/').getHost() == ''",
    ]);
}

#[test]
fn formats() {
    all_hold(&[
        "!format.dns1123Label().validate('my-label-name').hasValue()",
        "format.dns1123Label().validate('contains a space').hasValue() && format.dns1123Label().validate('').hasValue()",
        "!format.dns1123Subdomain().validate('apiextensions.k8s.io').hasValue()",
        "format.dns1123Subdomain().validate('a..b').hasValue()",
        "!format.dns1035Label().validate('my-label-name').hasValue() && format.dns1035Label().validate('1a').hasValue()",
        "!format.qualifiedName().validate('apiextensions.k8s.io/v1beta1').hasValue()",
        "format.qualifiedName().validate('/name').hasValue() && format.qualifiedName().validate('a/b/c').hasValue()",
        "!format.dns1123LabelPrefix().validate('my-label-prefix-').hasValue()",
        "!format.dns1123SubdomainPrefix().validate('mysubdomain.prefix.-').hasValue()",
        "!format.dns1035LabelPrefix().validate('my-label-prefix-').hasValue()",
        "!format.labelValue().validate('Value_1.x').hasValue() && format.labelValue().validate('-a').hasValue()",
        "!format.uri().validate('http://example.com').hasValue() && format.uri().validate('a b').hasValue()",
        "!format.uuid().validate('123e4567-e89b-12d3-a456-426614174000').hasValue() && format.uuid().validate('not a uuid').hasValue()",
        "!format.byte().validate('aGVsbG8=').hasValue() && format.byte().validate('b').hasValue()",
        "!format.date().validate('2021-01-01').hasValue() && format.date().validate('2021-13-01').hasValue()",
        "!format.datetime().validate('2021-01-01T00:00:00Z').hasValue() && format.datetime().validate('2021-01-01').hasValue()",
        "format.named('dns1123Label').value() == format.dns1123Label() && !format.named('nope').hasValue()",
        "format.uuid().validate('x') == optional.of(['does not match the format uuid'])",
    ]);
}

#[test]
fn values_of_one_type_become_those_of_another() {
    all_hold(&[
        "bool('true') && bytes('a') == b'a' && double('1.5') == 1.5 && int('7') == 7 && uint(7) == 7u && string(7) == '7'",
        "dyn(1) == 1 && type(1) == int && size([1]) == 1 && strings.quote('a').size() == 3",
        "optional.of(1).or(optional.none()).value() == 1 && optional.ofNonZeroValue('').orValue('b') == 'b'",
        "optional.of('a').hasValue() && 'aB'.upperAscii() == 'AB' && 'ab'.endsWith('b') && 'ab'.startsWith('a') && 'ab'.contains('b')",
    ]);
}

#[test]
fn texts() {
    all_hold(&[
        "'tacocat'.charAt(3) == 'o' && 'tacocat'.charAt(7) == '' && '©αT'.charAt(1) == 'α'",
        "'hello mellow'.indexOf('') == 0 && 'hello mellow'.indexOf('ello') == 1 && 'hello mellow'.indexOf('jello') == -1",
        "'hello mellow'.indexOf('', 2) == 2 && 'hello mellow'.indexOf('ello', 2) == 7 && 'ta©o©αT'.indexOf('©', 3) == 4",
        "'abc'.indexOf('', 3) == 3 && 'abc'.indexOf('', 20) == 3",
        "'hello mellow'.lastIndexOf('') == 12 && 'hello mellow'.lastIndexOf('ello') == 7 && ''.lastIndexOf('@@') == -1",
        "'hello mellow'.lastIndexOf('ello', 6) == 1 && 'ta©o©αT'.lastIndexOf('©', 3) == 2 && 'bananananana'.lastIndexOf('nana', 7) == 6",
        "'hello hello'.replace('he', 'we') == 'wello wello' && 'hello hello'.replace('he', 'we', -1) == 'wello wello'",
        "'hello hello'.replace('he', 'we', 1) == 'wello hello' && 'hello hello'.replace('he', 'we', 0) == 'hello hello'",
        "'hello hello'.replace('', '_') == '_h_e_l_l_o_ _h_e_l_l_o_'",
        "'hello hello hello'.split(' ') == ['hello', 'hello', 'hello'] && 'hello hello hello'.split(' ', 0) == []",
        "'hello hello hello'.split(' ', 2) == ['hello', 'hello hello'] && 'hello hello hello'.split(' ', -1).size() == 3",
        "'ab'.split('') == ['a', 'b'] && 'abc'.split('', 2) == ['a', 'bc'] && ''.split(',') == [''] && ''.split('') == []",
        "'tacocat'.substring(4) == 'cat' && 'tacocat'.substring(0, 4) == 'taco' && 'ta©o©αT'.substring(2, 6) == '©o©α' && 'abc'.substring(3) == ''",
        "['hello', 'mellow'].join() == 'hellomellow' && [].join('-') == '' && ['a', 'b'].join('-') == 'a-b'",
        "'  \\f\\n\\r\\t\\vtext  '.trim() == 'text' && 'TacoCÆt'.lowerAscii() == 'tacocÆt' && 'gums'.reverse() == 'smug'",
    ]);
    all_fail(&[
        "'tacocat'.charAt(30) == ''",
        "'tacocat'.charAt(-1) == ''",
        "'hello mellow'.indexOf('ello', 20) == 1",
        "'abc'.indexOf('', -1) == 0",
        "'hello mellow'.lastIndexOf('ello', 20) == 1",
        "'tacocat'.lastIndexOf('a', -1) == 1",
        "'tacocat'.substring(40) == ''",
        "'tacocat'.substring(-1) == ''",
        "'tacocat'.substring(3, 2) == ''",
        "['a', 1].join() == ''",
    ]);
}

#[test]
fn loops_of_two_variables() {
    all_hold(&[
        "['a', 'b'].all(i, x, i < 2 && x != 'c') && !['a', 'b'].all(i, x, i == 0)",
        "{'a': 1, 'b': 2}.all(k, v, v > 0 && k != 'c') && {'a': 1}.exists(k, v, k == 'a' && v == 1)",
        "[1, 2].exists(i, x, i + x == 3) && [1, 2].existsOne(i, x, i == 1) && ![1, 2].exists_one(i, x, i < 2)",
        "['a', 'b'].transformList(i, x, x + string(i)) == ['a0', 'b1']",
        "[1, 2, 3].transformList(i, x, x > 1, i) == [1, 2]",
        "{'a': 1, 'b': 2}.transformMap(k, v, v * 2) == {'a': 2, 'b': 4}",
        "{'a': 1, 'b': 2}.transformMap(k, v, k == 'a', v) == {'a': 1}",
        "[[1], [2]].all(i, inner, inner.all(j, x, x == i + 1 && j == 0))",
        "[[1], [2]].all(i, x, x.all(x, x > 0)) && [1].all(i, x, [5].exists(i, i == 5) && i == 0)",
        "object.all(k, v, k == 'n' && v == 1)",
    ]);
    let none = Composition::default();
    let refused = Expression::compile_rule("[1].all(1, x, true)", &[], &none);
    assert!(matches!(refused, Err(CelError::Syntax(_))), "{refused:?}");
    let shadowed =
        Expression::compile_rule("[1].all(object, x, object == 0)", &["object"], &none).expect("a rule");
    assert!(!shadowed.uses("object"));
}
