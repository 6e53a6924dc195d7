//! `params` of a policy: they are what the same literal is, they are one policy's alone, and what they cost is counted.

use serde_json::json;

use super::super::*;

const ROOTS: [&str; 2] = ["object", "params"];

fn composition(params: Json, variables: &[(&str, &str)]) -> Composition {
    let list: Vec<_> = variables
        .iter()
        .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
        .collect();
    Composition::with_params(Some(params), &list, &ROOTS).unwrap_or_else(|error| panic!("{error:?}"))
}

/// Whether an expression holds of an object for a policy with these params.
fn holds(text: &str, params: &Json, object: &Json) -> Result<Result<bool, EvaluationError>, CelError> {
    let composition = composition(params.clone(), &[]);
    let expression = Expression::compile_rule(text, &ROOTS, &composition)?;
    let give = || object;
    let roots: [Root<'_>; 1] = [("object", &give)];
    Ok(expression.holds(&mut Activation::new(&roots), &composition))
}

fn refused(text: &str, params: &Json) -> String {
    match holds(text, params, &Json::Null) {
        Err(error) => error.to_string(),
        Ok(outcome) => panic!("{text} is not refused: {outcome:?}"),
    }
}

/// A value as CEL writes it down.
fn literal(value: &Json) -> String {
    match value {
        Json::Array(items) => format!("[{}]", items.iter().map(literal).collect::<Vec<_>>().join(", ")),
        Json::Object(fields) => {
            let field = |(name, value): (&String, &Json)| format!("{}: {}", json!(name), literal(value));
            format!("{{{}}}", fields.iter().map(field).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

#[test]
fn params_are_what_the_same_literal_is() {
    let object = json!({"name": "web-7", "replicas": 7, "images": ["a/x", "b/y"], "labels": {"team": "a"}});
    let all = [
        json!({"of": 5, "other": 5}),
        json!({"of": 7, "other": 7.5}),
        json!({"of": -1, "other": "x"}),
        json!({"of": 7.5, "other": 7}),
        json!({"of": true, "other": false}),
        json!({"of": "web-7", "other": "web-[0-9]"}),
        json!({"of": "", "other": "ö"}),
        json!({"of": ["a/x", "b/y"], "other": []}),
        json!({"of": [7, [7], {"a": 7}], "other": [7]}),
        json!({"of": {"team": "a"}, "other": {}}),
        json!({"of": {"a b": {"c": [true]}}, "other": {"of": 1}}),
    ];
    let templates = [
        "P.of == P.other",
        "P.of == object.name || P.of == object.replicas || P.of == object.images || P.of == object.labels",
        "object.replicas <= P.of",
        "P.of < P.other",
        "P.of + P.other == P.of",
        "P.of in object.images",
        "object.replicas in P.of",
        "P.of.size() > 1",
        "P.of.exists(x, x == object.replicas || x == 'team')",
        "P.of.map(x, [x, P.other]).size() == 1",
        "object.images.all(i, i in P.of)",
        "object.name.startsWith(P.of)",
        "object.name.matches(P.other)",
        "object.name.matches('^' + P.of)",
        "object.name.split('-').join(P.of) == P.other",
        "'%s'.format([P.of]) == string(P.of)",
        "P.other.format([P.of]) == 'x'",
        "has(P.of) && !has(P.nothing)",
        "P.?of.?team.orValue('') == object.labels.team",
        "P['of'] == P.of",
        "P == P && P.of != null",
        "type(P.of) == type(P.other)",
        "int(P.of) < object.replicas",
        "P.of.team == 'a'",
        "P.of[0] == object.images[0]",
        "P.of ? true : P.other",
        "!P.of",
        "[P.of, P.other].exists(x, x == object.replicas)",
        "{'a': P.of} == {'a': P.other}",
        "quantity(P.of).isGreaterThan(quantity('1'))",
    ];
    let mut outcomes = std::collections::BTreeMap::<_, usize>::new();
    for params in &all {
        for template in templates {
            let ours = holds(&template.replace('P', "params"), params, &object);
            // Each use of a field becomes the field's own literal, whose type is known as that of the field is.
            let written = template
                .replace("P.of", &format!("({})", literal(&params["of"])))
                .replace("P.other", &format!("({})", literal(&params["other"])))
                .replace('P', &literal(params));
            let is_number_in_map = template == "object.replicas in P.of" && params["of"].is_object();
            if template.contains("has(P.of)") || template.contains("'^' + P.of") || is_number_in_map {
                // `has` of a literal and a computed pattern are no CEL here. A map of JSON has texts for keys alone, as in the API server,
                // so that a number in it is a fault and not false.
                continue;
            }
            let theirs = holds(&written, &json!({}), &object);
            let same = match (&ours, &theirs) {
                (Ok(ours), Ok(theirs)) => ours == theirs,
                (Err(_), Err(_)) => true,
                // A field that is not there is told before, in place of failing each time.
                (Err(CelError::NoParam { .. }), Ok(Err(_))) => true,
                _ => false,
            };
            assert!(
                same,
                "{template} of {params}: {ours:?}, and written down {theirs:?}\n{written}"
            );
            let kind = match ours {
                Ok(Ok(holds)) => format!("{holds}"),
                Ok(Err(_)) => "failed".to_owned(),
                Err(_) => "refused".to_owned(),
            };
            *outcomes.entry(kind).or_default() += 1;
        }
    }
    // The table is about something: every kind of outcome is there often.
    for kind in ["true", "false", "refused"] {
        assert!(
            outcomes.get(kind).is_some_and(|count| *count > 30),
            "{outcomes:?}"
        );
    }
}

#[test]
fn the_params_of_one_policy_are_no_other_policys() {
    let variables = [("most", "params.most + 0"), ("name", "params.names[0]")];
    let [small, large] = [(3, "a"), (9, "b")]
        .map(|(most, name)| composition(json!({"most": most, "names": [name]}), &variables));
    let none = Composition::compile(&[("most".to_owned(), "5".to_owned())], &ROOTS).expect("variables");
    let failing = Composition::compile(&[("most".to_owned(), "object.nothing + 1".to_owned())], &ROOTS);
    let failing = failing.expect("variables");
    let compile = |text: &str, of: &Composition| Expression::compile_rule(text, &ROOTS, of).expect(text);
    let (object, forged) = (json!({"replicas": 5}), json!({"most": 100, "names": []}));
    let (give, give_forged) = (|| &object, || &forged);
    let forged_roots: [Root<'_>; 2] = [("object", &give), ("params", &give_forged)];
    let roots: [Root<'_>; 1] = [("object", &give)];
    let texts = [
        "object.replicas > params.most",
        "object.replicas > variables.most",
        "variables.name == params.names[0] && variables.name == 'a'",
    ];
    let mut activation = Activation::new(&roots);
    // Twice in turn, so that what one leaves behind meets the other.
    for _ in 0..2 {
        for text in texts {
            for (policy, is_small) in [(&small, true), (&large, false)] {
                let outcome = compile(text, policy).holds(&mut activation, policy);
                assert_eq!(outcome, Ok(is_small), "{text}");
            }
            let of_none = compile("variables.most == 5", &none);
            assert_eq!(of_none.holds(&mut activation, &none), Ok(true));
        }
    }
    // A variable without a value is not another policy's of that name.
    let of_failing = compile("variables.most > 0", &failing);
    assert_eq!(compile(texts[1], &small).holds(&mut activation, &small), Ok(true));
    assert_eq!(
        of_failing.holds(&mut activation, &failing),
        Err(EvaluationError::Failed)
    );
    // An expression that was compiled for a policy with params finds none in one without.
    let astray = compile("object.replicas > params.most", &small);
    assert_eq!(astray.holds(&mut activation, &none), Err(EvaluationError::Failed));
    // Whoever makes the roots of a decision cannot put others in their place.
    assert_eq!(
        astray.holds(&mut Activation::new(&forged_roots), &none),
        Err(EvaluationError::Failed)
    );
    assert_eq!(
        astray.holds(&mut Activation::new(&forged_roots), &small),
        Ok(true)
    );
}

#[test]
fn params_of_a_policy_without_any_are_refused() {
    let none = Composition::default();
    for text in [
        "params.a == 1",
        "params == null",
        "has(params.a)",
        "[1].all(x, x in params.a)",
    ] {
        let error = Expression::compile_rule(text, &ROOTS, &none).expect_err(text);
        assert_eq!(error, CelError::NoParams, "{text}");
    }
    let error = Composition::compile(&[("a".to_owned(), "params.a".to_owned())], &ROOTS);
    assert_eq!(error, Err((0, CelError::NoParams)));
    // A loop's variable of that name is the loop's.
    assert!(Expression::compile_rule("[{'a': true}].all(params, params.a)", &ROOTS, &none).is_ok());
    let error = Expression::compile_rule("params.a", &["object"], &composition(json!({"a": true}), &[]));
    assert!(matches!(error, Err(CelError::Variable { .. })), "{error:?}");
}

#[test]
fn a_field_that_params_do_not_have_is_told_where_it_is_read() {
    let params =
        json!({"data": {"max": "5", "gone": null}, "spec": {"gone": null}, "list": [{"a": 1}], "empty": {}});
    for (text, said) in [
        (
            "params.nothing == 1",
            "`params` has no field `nothing`; there are: data, empty, list, spec. Ask for an optional field by `has` or `.?`",
        ),
        (
            "params.data.mix == '5'",
            "`params.data` has no field `mix`; there are: max.",
        ),
        (
            "params.data['mix'] == '5'",
            "`params.data` has no field `mix`; there are: max.",
        ),
        ("params.empty.a", "`params.empty` has no field `a` and is empty."),
        (
            "params.spec.gone",
            "`params.spec` has no field `gone` and is empty.",
        ),
        ("params['a\\nb']", "`params` has no field `a\\nb`; there are:"),
        ("[1].all(x, x == params.nothing)", "no field `nothing`"),
        ("has(params.nothing.a)", "no field `nothing`"),
        ("has(params.data.mix) && params.data.mux == '5'", "no field `mux`"),
        ("has(params.data) && params.data.mix == '5'", "no field `mix`"),
        (
            "has(params.data.mix) && params.spec.mix == '5'",
            "`params.spec` has no field `mix`",
        ),
        // Wherever it stands.
        ("params.nothing.all(x, x == 1)", "no field `nothing`"),
        ("[1, params.nothing].size() == 2", "no field `nothing`"),
        ("{params.nothing: 1}.size() == 1", "no field `nothing`"),
        ("{'a': params.nothing}.size() == 1", "no field `nothing`"),
        ("params.nothing.startsWith('a')", "no field `nothing`"),
        ("params.nothing.a == 1", "no field `nothing`"),
        (
            "[{'a': 1}].all(params, params.a == 1) && params.a == 1",
            "no field `a`",
        ),
        // A value of another type has no fields.
        ("params.data.max.a", "field `a` does not take string"),
        ("params.data.max + 1 == 6", "`+` beside string does not take int"),
        ("params.data.max < 5", "`<` beside string does not take int"),
        ("params == 'a'", "does not take"),
    ] {
        let error = refused(text, &params);
        assert!(error.contains(said), "{text}: {error}");
    }
    for (text, outcome) in [
        ("has(params.nothing) && params.nothing == 1", Ok(false)),
        ("!has(params.nothing) || params.nothing.a.b == 1", Ok(true)),
        ("'mix' in params.data ? params.data.mix == '' : true", Ok(true)),
        ("params.data.?mix.orValue('x') == 'x'", Ok(true)),
        ("params.?nothing.a.hasValue()", Ok(false)),
        ("params.data.gone == '' && has(params.data.gone)", Ok(true)),
        // A `null` in a map of texts is an empty text.
        ("params.data.gone == ''", Ok(true)),
        ("params.data.gone + 'a' == 'a'", Ok(true)),
        ("has(params.spec.gone)", Ok(false)),
        ("params.?nothing.hasValue() && params.nothing == 1", Ok(false)),
        ("has(params.data.max) || params.data.max == '5'", Ok(true)),
        ("params.list[0].a == 1", Ok(true)),
        ("params.list[0].b == 1", Err(EvaluationError::Failed)),
        (
            "params.list.all(i, i.a == 1) && params.list.exists(params, params.a == 1)",
            Ok(true),
        ),
        ("[{'nothing': 1}].all(params, params.nothing == 1)", Ok(true)),
        (
            "{'a': {'nothing': 1}}.all(k, params, params.nothing == 1)",
            Ok(true),
        ),
        ("{'a': 7}.all(k, params, params == 7)", Ok(true)),
        (
            "[{'data': {'max': 1}}].all(params, params.data.max + 1 == 2)",
            Ok(true),
        ),
        ("params[params.data.max] == 1", Err(EvaluationError::Failed)),
    ] {
        assert_eq!(holds(text, &params, &Json::Null), Ok(outcome), "{text}");
    }
    let many: serde_json::Map<_, _> = (0..20)
        .map(|at| (format!("{at:02}{}", "x".repeat(100)), json!(1)))
        .collect();
    let error = refused("params.a == 1", &Json::Object(many));
    assert!(error.contains("and 12 more") && error.len() < 1000, "{error}");
    assert!(!error.contains(&"x".repeat(63)), "{error}");
    // On one line, whatever the names are.
    let lines = json!({"a\nb": {"c\nd": 1}});
    let error = refused("params['a\\nb'].e == 1", &lines);
    assert!(
        error.contains("`params.a\\nb` has no field `e`; there are: c\\nd."),
        "{error}"
    );
}

#[test]
fn a_pattern_and_a_format_may_be_texts_of_params() {
    let params = json!({"data": {"pattern": "^web-[0-9]+$", "bad": "(", "wide": "%.999f", "many": "(a{99}){99}", "format": "%s!"}, "n": 1});
    for (text, outcome) in [
        ("object.matches(params.data.pattern)", true),
        ("matches(object, params.data['pattern'])", true),
        ("!'a-web-7'.matches(params.data.pattern)", true),
        ("object.find(params.data.pattern) == 'web-7'", true),
        ("params.data.format.format([object]) == 'web-7!'", true),
    ] {
        assert_eq!(holds(text, &params, &json!("web-7")), Ok(Ok(outcome)), "{text}");
    }
    for text in [
        "object.matches(params.data.bad)",
        "object.matches(params.data.many)",
        "object.matches(params.n)",
        "object.matches(has(params.data.pattern))",
        "object.matches(params.data.pattern + 'a')",
        "['a'].all(params, object.matches(params))",
        "[{'data': {'pattern': object}}].all(params, object.matches(params.data.pattern))",
        "{'a': {'data': {'pattern': object}}}.all(k, params, object.matches(params.data.pattern))",
    ] {
        let error = holds(text, &params, &Json::Null).expect_err(text);
        assert_eq!(error, CelError::Pattern(MAX_RULE_PATTERN), "{text}");
    }
    let long = json!({"pattern": "a".repeat(MAX_RULE_PATTERN + 1)});
    let error = holds("object.matches(params.pattern)", &long, &Json::Null);
    assert_eq!(error, Err(CelError::Pattern(MAX_RULE_PATTERN)));
    assert_eq!(
        holds("params.data.wide.format([1.0]) == ''", &params, &Json::Null),
        Err(CelError::Format)
    );
}

/// Each would take a thread for seconds, or fill the machine.
#[test]
fn what_costs_too_much_on_params_is_stopped_before_it_is_done() {
    let params = json!({
        "text": "a".repeat(60_000), "list": vec!["x"; 1000], "numbers": (0..1000).collect::<Vec<_>>(),
    });
    for text in [
        "params.list.all(a, params.list.all(b, a == b))",
        "params.numbers.all(a, a in params.numbers)",
        "params.list.map(x, params.text + x).size() > 0",
        "params.list.all(x, size(params.text) > 0)",
        "params.list.all(x, params.text.format([x]) != '')",
        "params.list.all(x, params.list == params.list)",
        "params.list.map(x, params.list.map(y, x)).size() > 0",
    ] {
        let outcome = holds(text, &params, &Json::Null);
        assert_eq!(outcome, Ok(Err(EvaluationError::TooCostly)), "{text}");
    }
}
