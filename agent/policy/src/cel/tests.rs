//! Which expressions are taken, and what they come to.

use serde_json::json;

use super::*;

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
    assert_eq!(refused(nested), CelError::TooManyLoops);
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
fn the_variables_have_a_limited_number_of_values() {
    let groups = |count: usize| json!({"groups": vec!["g"; count]});
    let text = "claims.groups.all(x, claims.groups.all(y, x == y))";
    assert_eq!(of_claims(text, &groups(100)), Ok(CelOutcome::Bool(true)));
    assert_eq!(
        of_claims(text, &groups(MAX_VALUES)),
        Err(EvaluationError::TooManyValues)
    );
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
