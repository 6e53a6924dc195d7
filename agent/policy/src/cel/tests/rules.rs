//! What rules' expressions come to, and what they may cost.

use std::cell::Cell;

use serde_json::json;

use super::super::*;
use super::holds;

fn refused(text: &str) -> CelError {
    let composition = Composition::compile(&[("name".to_owned(), "'a'".to_owned())], &[]);
    let composition = composition.expect("a name");
    Expression::compile_rule(text, &["object"], &composition).expect_err(text)
}

#[test]
fn json_of_an_object_is_equal_to_what_an_expression_makes() {
    let object = json!({
        "list": ["a", {"b": [1, 2.5, null]}], "map": {"x": {"y": true}}, "empty": {}, "none": [], "n": 3, "text": "t",
    });
    for text in [
        "object.list == ['a', {'b': [1, 2.5, null]}]",
        "['a', {'b': [1, 2.5, null]}] == object.list",
        "{'x': {'y': true}} == object.map",
        "object.map == {'x': {'y': true}}",
        "object.list != ['a']",
        "['a'] != object.list",
        "[object.list] == [object.list]",
        "[object.map] == [{'x': {'y': true}}]",
        "object.empty == {}",
        "{} == object.empty",
        "[] == object.none",
        "object.none == []",
        "object.list != object.map",
        "object.map in [{'x': {'y': true}}]",
        "{'b': [1, 2.5, null]} in object.list",
        "'x' in object.map && !('y' in object.map)",
        "object.n == 3 && object.n == 3.0 && 3 == object.n && object.n < 3.5",
        "object.?text == optional.of('t')",
        "object.?list == optional.of(['a', {'b': [1, 2.5, null]}])",
        "object.?nothing == optional.none()",
        "object.list + ['c'] == ['a', {'b': [1, 2.5, null]}, 'c']",
        "['c'] + object.list == ['c', 'a', {'b': [1, 2.5, null]}]",
        "object.list[0] == 'a' && object['list'][1].b[1] == 2.5",
        "size(object.list) == 2 && object.map.size() == 1 && object.text.size() == 1",
        "object.map.all(k, object.map[k].y)",
        "object.list.map(x, x)[1].b[0] == 1",
        "type(object.list) == list && type(object.map) == map && type(object.n) == int",
        "object.list.exists_one(x, x == 'a')",
        "object.list.filter(x, x != 'a') == [{'b': [1, 2.5, null]}]",
        "has(object.map.x.y) && !has(object.map.z)",
        "object != null && oldObject == null",
        "object.list.orValue([]) == object.list && object.?list.orValue([]) == object.list && object.?nothing.orValue([]) == []",
        "object.?nothing.or(object.?text).value() == 't' && object.?text.or(object.?n).value() == 't'",
        "[object.text, 'u'].join('-') == 't-u'",
        "'%s=%s'.format([object.text, object.none]) == 't=[]'",
    ] {
        assert_eq!(holds(text, &object), Ok(true), "{text}");
    }
}

#[test]
fn a_field_that_is_null_is_not_there() {
    let object =
        json!({"spec": {"a": null, "list": [null]}, "metadata": {"labels": {"x": null}, "name": "n"}});
    for text in [
        "!has(object.spec.a)",
        "!('a' in object.spec)",
        "object.spec.?a == optional.none()",
        "object.spec.size() == 1",
        "object.spec.all(field, field == 'list')",
        "object.spec == {'list': [null]}",
        // A label that is null is an empty text for the API server.
        "has(object.metadata.labels.x) && object.metadata.labels.x == ''",
        "'x' in object.metadata.labels",
        "object.metadata.labels.exists(name, name == 'x')",
    ] {
        assert_eq!(holds(text, &object), Ok(true), "{text}");
    }
    assert_eq!(holds("object.spec.a == 1", &object), Err(EvaluationError::Failed));
}

#[test]
fn errors_are_absorbed_as_cel_says() {
    let object = json!({"list": [1, 0], "yes": true, "no": false});
    for (text, outcome) in [
        ("object.nothing || object.yes", Ok(true)),
        ("object.yes || object.nothing", Ok(true)),
        ("object.nothing && object.no", Ok(false)),
        ("object.nothing || object.no", Err(EvaluationError::Failed)),
        ("object.list.exists(x, 1 / x == 1)", Ok(true)),
        ("object.list.all(x, 1 / x == 1)", Err(EvaluationError::Failed)),
        ("object.nothing", Err(EvaluationError::Failed)),
        ("object.list", Err(EvaluationError::NotBool)),
        ("object.list[7] == 1", Err(EvaluationError::Failed)),
        ("'a'.size() == 1 ? object.yes : object.nothing", Ok(true)),
    ] {
        assert_eq!(holds(text, &object), outcome, "{text}");
    }
}

#[test]
fn types_that_do_not_fit_are_refused_where_they_are_read() {
    for text in [
        "'a'",
        "1 + 1",
        "size(object)",
        "[true]",
        "{'a': true}",
        "variables.name",
        "type(object)",
    ] {
        assert!(matches!(refused(text), CelError::NotBool(_)), "{text}");
    }
    for text in [
        "1 + 'a' == object",
        "!'a'",
        "'a' && true",
        "'a' == 1",
        "1 ? true : false",
        "'a' in 'abc'",
        "'a'.b == 1",
        "-'a' == object",
        "'a'.all(x, true)",
        "variables.name + 1 == 2",
        "1 < 'a'",
        "true[0]",
    ] {
        assert!(
            matches!(refused(text), CelError::Type { .. }),
            "{text}: {}",
            refused(text)
        );
    }
    for text in [
        "size()",
        "object.a.startsWith()",
        "object.a.startsWith('a', 'b')",
        "startsWith(object.a, 'b')",
        "[1].startsWith('a')",
        "object.matches('a', 'b')",
    ] {
        assert!(
            matches!(refused(text), CelError::Operands(_)),
            "{text}: {}",
            refused(text)
        );
    }
    assert!(matches!(refused("subject.a"), CelError::Variable { name, .. } if name == "subject"));
    assert!(
        matches!(refused("variables.other"), CelError::Variable { name, .. } if name == "variables.other")
    );
    assert_eq!(refused("variables == object"), CelError::WholeVariables);
    assert_eq!(refused("variables['name'] == 'a'"), CelError::WholeVariables);
    assert_eq!(refused("nope(object)"), CelError::Function("nope".to_owned()));
    assert_eq!(
        refused("object.a.matches(object.b)"),
        CelError::Pattern(MAX_RULE_PATTERN)
    );
    assert_eq!(
        refused("object.a.matches('(')"),
        CelError::Pattern(MAX_RULE_PATTERN)
    );
    assert_eq!(refused("object.a.format([1]) == ''"), CelError::Format);
    assert_eq!(refused("'%.999f'.format([1.0]) == ''"), CelError::Format);
    let nested = "[1].all(a, [1].all(b, [1].all(c, [1].all(d, [1].all(e, true)))))";
    assert_eq!(refused(nested), CelError::TooManyLoops(MAX_RULE_LOOPS));
}

#[test]
fn variables_are_evaluated_in_their_order_and_only_if_they_are_reached() {
    let list = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect()
    };
    let composition = Composition::compile(
        &list(&[
            ("containers", "object.spec.containers"),
            ("images", "variables.containers.map(c, c.image)"),
            ("broken", "oldObject.nothing"),
            ("reason", "variables.images.size() > 1 ? 'many' : 'one'"),
        ]),
        &["object", "oldObject"],
    )
    .expect("variables");
    assert_eq!(composition.names().count(), 4);
    let compile = |text: &str| {
        Expression::compile_rule(text, &["object", "oldObject", "request"], &composition).expect(text)
    };
    let object = json!({"spec": {"containers": [{"image": "a"}, {"image": "b"}]}});
    let (objects, olds) = (Cell::new(0), Cell::new(0));
    let null = Json::Null;
    let (give, give_old) = (
        || {
            objects.set(objects.get() + 1);
            &object
        },
        || {
            olds.set(olds.get() + 1);
            &null
        },
    );
    let roots: [Root<'_>; 2] = [("object", &give), ("oldObject", &give_old)];
    let other = Composition::compile(&list(&[("reason", "'other'")]), &["object"]).expect("variables");
    let of_other =
        Expression::compile_rule("variables.reason == 'other'", &["object"], &other).expect("a rule");
    let mut activation = Activation::new(&roots);
    let many = compile("variables.reason == 'many'");
    assert!(many.uses("object") && !many.uses("oldObject") && many.selects("variables", "reason"));
    assert_eq!(compile("true").holds(&mut activation, &composition), Ok(true));
    assert_eq!(objects.get(), 0, "nothing uses the object yet");
    assert_eq!(many.holds(&mut activation, &composition), Ok(true));
    let first = activation.steps();
    assert_eq!(many.holds(&mut activation, &composition), Ok(true));
    assert!(
        activation.steps() - first < first / 2,
        "the variables are evaluated once"
    );
    assert_eq!((objects.get(), olds.get()), (1, 0));
    let broken = compile("variables.broken == 1");
    assert_eq!(
        broken.holds(&mut activation, &composition),
        Err(EvaluationError::Failed)
    );
    let beside = compile("variables.broken == 1 || has(variables.images)");
    assert_eq!(beside.holds(&mut activation, &composition), Ok(true));
    // The variables of another policy are others, of the same name too.
    assert_eq!(of_other.holds(&mut activation, &other), Ok(true));
    assert_eq!(many.holds(&mut activation, &composition), Ok(true));
    assert_eq!(of_other.holds(&mut activation, &other), Ok(true));

    let refused =
        |pairs: &[(&str, &str)]| Composition::compile(&list(pairs), &["object"]).expect_err("refused");
    assert_eq!(
        refused(&[("a", "1"), ("a", "2")]),
        (1, CelError::Name("a".to_owned()))
    );
    assert_eq!(refused(&[("a-b", "1")]), (0, CelError::Name("a-b".to_owned())));
    assert!(matches!(
        refused(&[("a", "variables.b"), ("b", "1")]),
        (0, CelError::Variable { .. })
    ));
    let many: Vec<(&str, &str)> = ["a"; MAX_VARIABLES + 1].iter().map(|_| ("", "1")).collect();
    let many = many
        .iter()
        .enumerate()
        .map(|(at, (_, text))| (format!("v{at}"), (*text).to_owned()));
    let many = Composition::compile(&many.collect::<Vec<_>>(), &[]);
    assert_eq!(many, Err((MAX_VARIABLES, CelError::TooManyVariables)));
}

/// Each would take a thread for seconds, or fill the machine.
#[test]
fn what_costs_too_much_on_an_object_is_stopped_before_it_is_done() {
    let large = "a".repeat(1 << 20);
    let object = json!({
        "text": large, "part": format!("{}b", "a".repeat(1000)), "list": vec!["x"; 1000], "texts": vec![&large[..10_000]; 100],
        "numbers": (0..1000).collect::<Vec<_>>(),
    });
    for text in [
        "object.list.all(a, object.list.all(b, a == b))",
        "object.numbers.all(a, object.numbers.exists(b, a == b))",
        "object.numbers.all(a, a in object.numbers)",
        "object.list.all(x, !object.text.contains(object.part))",
        "object.list.all(x, !object.text.matches('(a|b)*c'))",
        "object.list.all(x, size(object.text) > 0)",
        "object.list.all(x, object.text.indexOf('b') < 0)",
        "object.list.map(x, object.text + x).size() > 0",
        "object.text.replace('', object.part) == ''",
        "object.text.split('').size() > 0",
        "object.text.split('a').all(x, true)",
        "object.list.join(object.text) == ''",
        "object.list.map(x, object.list.map(y, x)).size() > 0",
        "[object.text.lowerAscii()].map(x, [x, x, x, x, x, x, x, x]).map(x, [x, x, x, x, x, x, x, x]).size() > 0",
        "object.list.all(x, object.texts == object.texts)",
        "object.list.all(x, '%s'.format([object.texts]) != '')",
    ] {
        let outcome = holds(text, &object);
        assert_eq!(outcome, Err(EvaluationError::TooCostly), "{text}");
    }
}

#[test]
fn the_steps_of_one_decision_are_those_of_all_its_expressions() {
    let object = json!({"list": vec![1; 1000]});
    let none = Composition::default();
    let expression =
        Expression::compile_rule("object.list.all(x, x == 1)", &["object"], &none).expect("a rule");
    let give = || &object;
    let roots: [Root<'_>; 1] = [("object", &give)];
    let mut activation = Activation::new(&roots);
    let mut rounds = 0;
    while expression.holds(&mut activation, &none) == Ok(true) {
        rounds += 1;
        assert!(rounds < 1000, "there is no end");
    }
    assert!(rounds > 5, "{rounds}");
    assert_eq!(
        expression.holds(&mut activation, &none),
        Err(EvaluationError::TooCostly)
    );
}

#[test]
fn a_loops_variable_of_a_roots_name_is_the_loops() {
    let composition = Composition::compile(&[("a".to_owned(), "1".to_owned())], &[]).expect("variables");
    let compile = |text: &str| Expression::compile_rule(text, &["object"], &composition).expect(text);
    assert!(!compile("[{'a': true}].all(object, object.a)").uses("object"));
    assert!(compile("[object].all(object, object.a)").uses("object"));
    let shadowed = compile("[{'a': true}].all(variables, variables.a)");
    assert_eq!(shadowed.holds(&mut Activation::new(&[]), &composition), Ok(true));
}
