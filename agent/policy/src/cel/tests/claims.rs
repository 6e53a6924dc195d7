//! Which expressions are taken, and what they come to.

use serde_json::json;

use super::super::*;

fn of_claims(text: &str, claims: &Json) -> Result<CelOutcome, EvaluationError> {
    let expression = Expression::compile(text, &["claims"]).expect(text);
    expression.evaluate(&[("claims", claims)])
}

#[test]
fn expressions_of_the_documentation_of_kubernetes_come_to_what_they_say() {
    let claims = json!({
        "exp": 1_000_100, "nbf": 1_000_000, "username": "jane", "roles": "a,b", "other_roles": ["c"],
        "email": "j@x.test", "email_verified": true, "hd": "example.com", "sub": "s", "custom.example/x": "y",
    });
    for (text, outcome) in [
        ("claims.exp - claims.nbf <= 86400", CelOutcome::Bool(true)),
        (r#"claims.hd == "example.com""#, CelOutcome::Bool(true)),
        (
            "claims.username + ':external-user'",
            CelOutcome::Text("jane:external-user".to_owned()),
        ),
        (
            "claims.roles.split(',')",
            CelOutcome::Texts(vec!["a".to_owned(), "b".to_owned()]),
        ),
        (
            "claims.roles.split(',') + claims.other_roles",
            CelOutcome::Texts(vec!["a".to_owned(), "b".to_owned(), "c".to_owned()]),
        ),
        (
            "claims.email_verified ? claims.email : claims.sub",
            CelOutcome::Text("j@x.test".to_owned()),
        ),
        (
            "claims.?absent.orValue('none')",
            CelOutcome::Text("none".to_owned()),
        ),
        (
            "claims.?email_verified.orValue(true) == true",
            CelOutcome::Bool(true),
        ),
        ("has(claims.absent)", CelOutcome::Bool(false)),
        ("claims['custom.example/x']", CelOutcome::Text("y".to_owned())),
        (
            "claims.other_roles.all(role, role != 'admin')",
            CelOutcome::Bool(true),
        ),
        (
            "claims.other_roles.map(role, 'oidc:' + role)",
            CelOutcome::Texts(vec!["oidc:c".to_owned()]),
        ),
        ("!claims.username.startsWith('system:')", CelOutcome::Bool(true)),
        ("claims.username.matches('^j.*e$')", CelOutcome::Bool(true)),
        ("type(claims.exp) == int", CelOutcome::Bool(true)),
        ("claims.exp", CelOutcome::Other),
        (
            "optional.of(claims.sub).orValue('')",
            CelOutcome::Text("s".to_owned()),
        ),
        ("dyn(claims.sub) == 's'", CelOutcome::Bool(true)),
    ] {
        assert_eq!(of_claims(text, &claims), Ok(outcome), "{text}");
    }
}

#[test]
fn an_expression_that_errs_says_so_and_repeats_no_value() {
    let claims = json!({"secret": "hunter2", "n": 1});
    for text in [
        "claims.absent",
        "claims.secret + 1",
        "claims.secret - 1",
        "1 / (claims.n - 1) > 0",
    ] {
        let error = of_claims(text, &claims).expect_err(text);
        assert_eq!(error, EvaluationError::Failed);
        assert!(!error.to_string().contains("hunter2"));
    }
}

#[test]
fn what_is_unknown_or_too_much_is_refused_where_it_is_read() {
    let refused = |text: &str| Expression::compile(text, &["claims"]).expect_err(text);
    assert_eq!(refused(" "), CelError::Empty);
    assert_eq!(refused(&"a".repeat(MAX_EXPRESSION + 1)), CelError::TooLong);
    assert!(matches!(refused("claims.a =="), CelError::Syntax(_)));
    assert!(matches!(refused("user.username"), CelError::Variable { name, .. } if name == "user"));
    assert!(matches!(refused("clams.sub"), CelError::Variable { name, .. } if name == "clams"));
    assert_eq!(refused("nope(claims)"), CelError::Function("nope".to_owned()));
    assert_eq!(
        refused("timestamp(claims.exp) > timestamp(0)"),
        CelError::Function("timestamp".to_owned())
    );
    assert_eq!(
        refused("claims.sub.nope()"),
        CelError::Function("nope".to_owned())
    );
    assert_eq!(refused("no_pe(claims)"), CelError::Function("no_pe".to_owned()));
    assert_eq!(refused("Some{a: 1} == claims"), CelError::Struct);
    let nested = "claims.a.all(x, claims.a.all(y, claims.a.all(z, x == y && y == z)))";
    assert_eq!(refused(nested), CelError::TooManyLoops(MAX_LOOPS));
    assert!(Expression::compile("claims.a.all(x, claims.a.all(y, x == y))", &["claims"]).is_ok());
    // A loop's variable ends with the loop.
    assert!(matches!(
        refused("claims.a.all(x, x) && x"),
        CelError::Variable { .. }
    ));
}

#[test]
fn depth_has_a_limit_in_every_form() {
    let deep = 1000;
    for text in [
        format!("{}claims{}", "(".repeat(deep), ")".repeat(deep)),
        format!("{}claims{}", "[".repeat(deep), "]".repeat(deep)),
        format!("{}true", "!".repeat(deep)),
        format!("{}1", "-".repeat(deep)),
        format!("{}1", "- \n".repeat(deep)),
        format!("claims{}", ".a".repeat(deep)),
        format!("{}1", "1-".repeat(deep)),
        format!("{}1", "true?1:".repeat(deep / 4)),
        format!("claims{}", "[0]".repeat(deep)),
    ] {
        let refused = Expression::compile(&text, &["claims"]);
        assert_eq!(refused.err(), Some(CelError::TooDeep), "{}", &text[..20]);
    }
}

#[test]
fn white_space_is_no_depth() {
    for text in [
        format!("1{}+ 1", " ".repeat(200)),
        format!("1{}+ 1", "\n".repeat(200)),
    ] {
        assert!(Expression::compile(&text, &[]).is_ok());
    }
}

#[test]
fn the_variables_have_a_limited_number_of_values() {
    let groups = |count: usize| json!({"groups": vec!["g"; count]});
    let text = "claims.groups.all(x, claims.groups.all(y, x == y))";
    assert_eq!(of_claims(text, &groups(100)), Ok(CelOutcome::Bool(true)));
    assert_eq!(
        of_claims(text, &groups(MAX_VALUES)),
        Err(EvaluationError::TooManyValues)
    );
}

/// A text of a few hundred letters that would fill a machine, or hold a thread for minutes.
#[test]
fn what_could_make_large_values_or_take_long_is_refused_where_it_is_read() {
    let refused = |text: &str| Expression::compile(text, &["claims"]).err();
    let doubled = |list: &str| (0..30).fold(format!("[{list}]"), |text, _| format!("{text}.map(a, a + a)"));
    let grown = (0..12).fold("claims.a".to_owned(), |text, _| {
        format!("{text}.replace('', 'xxxxxxxx')")
    });
    for bomb in [
        "claims.a.replace('', claims.b)",
        &grown,
        "claims.l.map(x, claims.a.replace('', [1].map(y, x)[0]))[0]",
        "claims.l.map(x, claims.l).map(y, claims.l)",
        "'%s'.format([claims.a]).split('').join('%s'.format([claims.a]))",
        &format!("{}[0]", doubled("claims.a")),
        &format!("{}[0]", doubled("claims.l")),
        &format!("{}[0]", doubled("'a'")),
    ] {
        assert_eq!(refused(bomb), Some(CelError::TooLargeValue), "{bomb}");
    }
    for slow in [
        "claims.a.split('').all(x, claims.a.split('').all(y, x != y))",
        "claims.l.all(x, claims.l.all(y, claims.a.contains(x + y)))",
        "claims.l.all(x, claims.l.all(y, x in claims.l))",
        "claims.l.all(x, claims.l.all(y, x.matches('a+')))",
        r"claims.l.all(x, x.matches('(\\w{10}){10}'))",
    ] {
        assert_eq!(refused(slow), Some(CelError::TooManySteps), "{slow}");
    }
    for pattern in [
        "claims.a.matches(claims.b)",
        "matches(claims.a, claims.b)",
        "claims.a.matches('(a{1000}){1000}')",
        "claims.a.matches('(a{11}){10,}')",
        &format!("claims.a.matches('{}')", "a".repeat(MAX_PATTERN + 1)),
    ] {
        assert_eq!(
            refused(pattern),
            Some(CelError::Pattern(MAX_PATTERN)),
            "{pattern}"
        );
    }
    assert_eq!(refused("claims.a.format([claims.b])"), Some(CelError::Format));
}

#[test]
fn what_people_write_is_not_refused_for_its_cost() {
    for text in [
        "claims.groups.filter(g, g.startsWith('a:')).map(g, g.replace('a:', 'b:')).map(g, 'oidc:' + g)",
        "claims.groups.map(g, g.split(':')[0]).filter(g, g != '')",
        "claims.roles.split(',').map(r, 'role:' + r.trim())",
        "claims.groups.all(x, claims.others.all(y, x != y))",
        "claims.groups.exists(g, g in claims.allowed)",
        "claims.groups.all(g, claims.scope.contains(g))",
        "claims.groups.all(g, g.matches('^[a-z]{1,63}$'))",
        "'%s:%s'.format([claims.iss, claims.sub])",
        "claims.groups.map(g, '%s/%s'.format([claims.tenant.lowerAscii(), g]))[0]",
        "claims.groups.join(',')",
        "claims.groups.map(g, claims.tenant + ':' + g)",
    ] {
        assert_eq!(Expression::compile(text, &["claims"]).err(), None, "{text}");
    }
}

#[test]
fn an_outcome_has_a_limited_length() {
    let claims = |length: usize| json!({"a": "a".repeat(length), "l": vec!["b"; 100]});
    let text = "claims.l.map(x, claims.a + x)";
    assert!(of_claims(text, &claims(100)).is_ok());
    assert_eq!(of_claims(text, &claims(1000)), Err(EvaluationError::LargeOutcome));
    assert_eq!(
        of_claims("claims.l.map(x, claims.a + x).join('')", &claims(1000)),
        Err(EvaluationError::LargeOutcome)
    );
    // Each of these numbers has 309 digits.
    let numbers = |count: usize| json!({"l": vec![1e308; count]});
    assert!(of_claims("claims.l.map(x, string(x)).size() > 0", &numbers(70)).is_ok());
    assert_eq!(
        of_claims("claims.l.size() > 0", &numbers(80)),
        Err(EvaluationError::TooManyValues)
    );
}

#[test]
fn the_variables_have_a_limited_length() {
    let claims = |length: usize| json!({"sub": "s".repeat(length)});
    assert_eq!(
        of_claims("claims.sub != ''", &claims(MAX_TEXT - 3)),
        Ok(CelOutcome::Bool(true))
    );
    let refused = of_claims("claims.sub != ''", &claims(MAX_TEXT - 2));
    assert_eq!(refused, Err(EvaluationError::TooManyValues));
}

#[test]
fn fields_that_are_selected_by_name_are_known() {
    for text in [
        "claims.email",
        "has(claims.email)",
        "claims.?email.orValue('')",
        "[1].map(x, claims.email)[0]",
        "{'a': claims.email}",
        "true ? claims.email : ''",
    ] {
        let expression = Expression::compile(text, &["claims"]).expect(text);
        assert!(expression.selects("claims", "email"), "{text}");
        assert!(!expression.selects("claims", "email_verified"), "{text}");
    }
}
