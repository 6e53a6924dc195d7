//! Lists and watches in protobuf. The messages are written by hand, field by field, as apimachinery's generated code writes them.

use picket_masking::media::Encoding;
use picket_masking::{Filter, FilterError, ITEM_LIMIT};

use crate::common::{MARKER, Random, Sample, contains_marker, run};

fn varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A string, bytes or a message.
fn field(number: usize, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let mut out = Vec::new();
    varint(&mut out, number << 3 | 2);
    varint(&mut out, bytes.len());
    out.extend_from_slice(bytes);
    out
}

fn number(number: usize, value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    varint(&mut out, number << 3);
    varint(&mut out, value);
    out
}

fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let types = [field(1, api_version), field(2, kind)].concat();
    [
        b"k8s\0".to_vec(),
        field(1, types),
        field(2, raw),
        field(3, ""),
        field(4, ""),
    ]
    .concat()
}

fn metadata(sample: &Sample) -> Vec<u8> {
    let labels = sample.labels.iter().flat_map(|(key, value)| {
        let entry = [field(1, key), field(2, value)].concat();
        field(11, entry)
    });
    let labels: Vec<u8> = labels.collect();
    [
        field(1, &sample.name),
        field(2, ""),
        field(3, sample.namespace),
        number(7, 300),
        labels,
    ]
    .concat()
}

fn pod(random: &mut Random, sample: &Sample) -> Vec<u8> {
    let marker = if sample.is_hidden() { MARKER } else { "-" };
    let filler = "f".repeat(random.below(400));
    [field(1, metadata(sample)), field(2, filler), field(3, marker)].concat()
}

fn list_metadata(counts: bool) -> Vec<u8> {
    let count = if counts { number(4, 1234) } else { Vec::new() };
    [field(1, ""), field(2, "77"), field(3, "token"), count].concat()
}

/// The fields of a message.
fn fields(mut message: &[u8]) -> Vec<(usize, Vec<u8>)> {
    fn read(message: &mut &[u8]) -> usize {
        let (mut value, mut shift) = (0, 0);
        loop {
            let (byte, rest) = message.split_first().expect("a varint");
            *message = rest;
            value |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return value;
            }
        }
    }
    let mut found = Vec::new();
    while !message.is_empty() {
        let tag = read(&mut message);
        assert_eq!(tag & 7, 2, "lists have no numbers");
        let length = read(&mut message);
        let (value, rest) = message.split_at(length);
        found.push((tag >> 3, value.to_vec()));
        message = rest;
    }
    found
}

#[test]
fn a_list_keeps_its_length_and_what_is_shown() {
    for seed in 0..3000 {
        let random = &mut Random::new(seed);
        let samples: Vec<Sample> = (0..random.below(8)).map(|_| Sample::new(random)).collect();
        let items: Vec<Vec<u8>> = samples.iter().map(|sample| pod(random, sample)).collect();
        let counts_rest = random.one_in(2);
        let mut list = vec![field(1, list_metadata(counts_rest))];
        list.extend(items.iter().map(|item| field(2, item)));
        if random.one_in(4) {
            random.shuffle(&mut list);
        }
        let order = list.concat();
        let body = envelope("v1", "PodList", &order);
        let (out, counts) = run(Filter::list(Encoding::Protobuf), &body, random);
        let hidden = samples.iter().filter(|sample| sample.is_hidden()).count();
        let counts = counts.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(
            (counts.judged, counts.hidden),
            (samples.len() as u64, hidden as u64)
        );
        assert_eq!(out.len(), body.len(), "seed {seed}");
        assert!(!contains_marker(&out));
        if hidden == 0 && !counts_rest {
            assert_eq!(out, body);
        }
        let envelope = fields(&out[4..]);
        assert_eq!(
            envelope.iter().map(|(number, _)| *number).collect::<Vec<_>>(),
            [1, 2, 3, 4]
        );
        let shown: Vec<_> = fields(&envelope[1].1)
            .into_iter()
            .filter(|(number, _)| *number != 15)
            .collect();
        let mut expected: Vec<_> = fields(&order);
        expected.retain(|(number, value)| *number != 2 || !contains_marker(value));
        for (number, value) in &mut expected {
            if *number == 1 {
                *value = list_metadata(false);
            }
        }
        assert_eq!(shown, expected, "seed {seed}");
    }
}

/// Much that is hidden is padded as it goes by, not at the end.
#[test]
fn padding_is_of_any_size() {
    for size in (0..300).chain([16_000, 16_384, 20_000, 70_000]) {
        let sample = Sample {
            namespace: "hidden",
            name: "a".repeat(size + 1),
            labels: Vec::new(),
        };
        let list = [
            field(2, field(1, metadata(&sample))),
            field(1, list_metadata(false)),
        ]
        .concat();
        let body = envelope("v1", "PodList", &list);
        let (out, counts) = run(
            Filter::list(Encoding::Protobuf),
            &body,
            &mut Random::new(size as u64),
        );
        assert!(counts.is_ok());
        assert_eq!(out.len(), body.len());
        assert!(
            !String::from_utf8_lossy(&out).contains("aa")
                && !String::from_utf8_lossy(&out).contains("hidden")
        );
        fields(&fields(&out[4..])[1].1);
    }
}

fn frame(kind: &str, object: &[u8]) -> Vec<u8> {
    framed(&[field(1, kind), field(2, field(1, object))])
}

fn framed(fields: &[Vec<u8>]) -> Vec<u8> {
    let event = fields.concat();
    [(event.len() as u32).to_be_bytes().to_vec(), event].concat()
}

#[test]
fn frames_of_hidden_objects_go() {
    for seed in 0..2000 {
        let random = &mut Random::new(seed);
        let (mut body, mut expected) = (Vec::new(), Vec::new());
        for _ in 0..random.below(6) {
            let sample = Sample::new(random);
            let object = envelope("v1", "Pod", &pod(random, &sample));
            let kind = random.pick(&["ADDED", "MODIFIED", "DELETED"]);
            let (frame, is_hidden) = match random.below(6) {
                0 => (
                    frame("BOOKMARK", &envelope("v1", "Pod", &field(1, field(6, "9")))),
                    false,
                ),
                1 => (
                    frame("ERROR", &envelope("v1", "Status", &field(2, "Failure"))),
                    false,
                ),
                _ => (frame(kind, &object), sample.is_hidden()),
            };
            body.extend_from_slice(&frame);
            if !is_hidden {
                expected.extend_from_slice(&frame);
            }
        }
        let (out, counts) = run(Filter::watch(Encoding::Protobuf), &body, random);
        assert!(counts.is_ok(), "seed {seed}: {counts:?}");
        assert!(!contains_marker(&out));
        assert_eq!(out, expected, "seed {seed}");
    }
}

fn hidden() -> Sample {
    Sample {
        namespace: "hidden",
        name: "a".to_owned(),
        labels: Vec::new(),
    }
}

fn in_dev() -> Sample {
    Sample {
        namespace: "dev",
        ..hidden()
    }
}

#[test]
fn an_item_is_hidden_in_any_reading() {
    let (of_shown, of_hidden) = (metadata(&in_dev()), metadata(&hidden()));
    let items = [
        [field(1, &of_shown), field(1, &of_hidden)].concat(),
        [field(1, &of_hidden), field(1, &of_shown)].concat(),
        field(1, [of_hidden.clone(), of_shown.clone()].concat()),
        field(1, [of_shown, of_hidden].concat()),
    ];
    for item in items {
        let body = envelope("v1", "PodList", &field(2, &item));
        let (_, counts) = run(Filter::list(Encoding::Protobuf), &body, &mut Random::new(1));
        assert_eq!(counts.map(|counts| counts.hidden), Ok(1));
        let body = frame("ADDED", &envelope("v1", "Pod", &item));
        let (out, _) = run(Filter::watch(Encoding::Protobuf), &body, &mut Random::new(1));
        assert!(out.is_empty());
    }
}

#[test]
fn what_cannot_be_judged_ends_the_response() {
    let random = &mut Random::new(9);
    let item = field(2, pod(random, &hidden()));
    let nameless = field(2, field(3, MARKER));
    let types = field(1, [field(1, "v1"), field(2, "PodList")].concat());
    let bodies = [
        (envelope("v1", "Pod", &item), "not_a_list"),
        (envelope("v1", "List", &item), "not_a_list"),
        (envelope("example.org/v1", "Status", &item), "not_a_list"),
        (envelope("v1", "PodList", &nameless), "no_name"),
        (
            envelope("v1", "PodList", &[item.clone(), field(7, MARKER)].concat()),
            "not_a_list",
        ),
        (
            envelope("v1", "PodList", &field(1, field(9, MARKER))),
            "not_a_list",
        ),
        // An item whose tag is that of metadata would pass as metadata.
        (
            envelope(
                "v1",
                "PodList",
                &[field(1, ""), field(1, field(3, MARKER))].concat(),
            ),
            "not_a_list",
        ),
        (envelope("v1", "PodList", &item[..item.len() - 1]), "protobuf"),
        (
            [b"k8s\0".to_vec(), field(2, &item), types.clone()].concat(),
            "protobuf",
        ),
        (
            [b"k8s\0".to_vec(), types.clone(), types.clone()].concat(),
            "protobuf",
        ),
        // A second content would come after the first was looked through.
        (
            [
                b"k8s\0".to_vec(),
                types.clone(),
                field(2, ""),
                field(2, &nameless),
            ]
            .concat(),
            "protobuf",
        ),
        (
            [b"k8s\0".to_vec(), types.clone(), field(4, "application/json")].concat(),
            "protobuf",
        ),
        (
            [b"K8s\0".to_vec(), types.clone(), field(2, &item)].concat(),
            "protobuf",
        ),
        (
            [b"k8s\0".to_vec(), types.clone(), field(9, MARKER)].concat(),
            "protobuf",
        ),
        (
            [
                b"k8s\0".to_vec(),
                field(
                    1,
                    [field(1, "v1"), field(2, "PodList"), field(3, MARKER)].concat(),
                ),
            ]
            .concat(),
            "protobuf",
        ),
        ([b"k8s\0".to_vec(), types].concat(), "truncated"),
        (b"{\"kind\":\"PodList\"}".to_vec(), "protobuf"),
        (Vec::new(), "truncated"),
    ];
    for (body, code) in bodies {
        for seed in 0..6 {
            let (out, counts) = run(Filter::list(Encoding::Protobuf), &body, &mut Random::new(seed));
            assert_eq!(
                counts.map_err(FilterError::code),
                Err(code),
                "{}",
                String::from_utf8_lossy(&body)
            );
            assert!(!contains_marker(&out));
        }
    }
    let object = envelope("v1", "Pod", &pod(random, &hidden()));
    let shown = envelope("v1", "Pod", &pod(random, &in_dev()));
    let events = [
        frame("ERROR", &object),
        frame("OTHER", &object),
        frame("ADDED", &pod(random, &hidden())),
        frame("ADDED", &object)[..40].to_vec(),
        vec![0xff; 8],
        framed(&[field(1, "ADDED"), field(2, field(1, &shown)), field(3, MARKER)]),
        framed(&[
            field(1, "ADDED"),
            field(2, [field(1, &shown), field(2, MARKER)].concat()),
        ]),
        framed(&[
            field(1, "ADDED"),
            field(2, field(1, &object)),
            field(2, field(1, &shown)),
        ]),
        framed(&[field(1, "ERROR"), field(1, "ADDED"), field(2, field(1, &shown))]),
        framed(&[field(2, field(1, &shown))]),
        frame(
            "ADDED",
            &[b"k8s\0".to_vec(), field(2, pod(random, &in_dev()))].concat(),
        ),
    ];
    for body in events {
        let (out, counts) = run(Filter::watch(Encoding::Protobuf), &body, random);
        assert!(counts.is_err());
        assert!(out.is_empty());
    }
}

#[test]
fn damage_never_shows_what_is_hidden() {
    for seed in 0..6000 {
        let random = &mut Random::new(seed);
        let item = pod(random, &hidden());
        let list = [field(1, list_metadata(true)), field(2, &item)].concat();
        let mut body = envelope("v1", "PodList", &list);
        // What makes the item an item of that namespace stays: without that, no reader takes it for one.
        let start = body
            .windows(item.len())
            .position(|part| part == item)
            .expect("the item");
        let judged = start - 3..start + field(1, metadata(&hidden())).len();
        let at = random.below(body.len());
        if judged.contains(&at) {
            continue;
        }
        body[at] ^= 1 << random.below(8);
        let (out, counts) = run(Filter::list(Encoding::Protobuf), &body, random);
        assert!(counts.is_err() || !contains_marker(&out), "seed {seed}");
    }
}

#[test]
fn a_status_passes() {
    let body = envelope(
        "v1",
        "Status",
        &[field(1, ""), field(2, "Failure"), field(3, "no")].concat(),
    );
    for seed in 0..8 {
        let (out, counts) = run(Filter::list(Encoding::Protobuf), &body, &mut Random::new(seed));
        assert!(counts.is_ok(), "{counts:?}");
        assert_eq!(out, body);
    }
}

#[test]
fn the_room_of_a_large_item_is_given_back_behind_it() {
    let item = field(1, metadata(&hidden()));
    let large = [item.clone(), field(2, "d".repeat(200 * 1024))].concat();
    let list = envelope("v1", "PodList", &[field(2, &large), field(2, &item)].concat());
    let watch = [&large, &item].map(|item| frame("ADDED", &envelope("v1", "Pod", item)));
    for (mut filter, body) in [
        (Filter::list(Encoding::Protobuf), list),
        (Filter::watch(Encoding::Protobuf), watch.concat()),
    ] {
        let mut held = Vec::new();
        for piece in body.chunks(4096) {
            let mut out = Vec::new();
            filter.push(piece, &mut |_| false, &mut out).expect("well formed");
            held.push(filter.held());
        }
        assert!(held.iter().max() >= Some(&(200 * 1024)), "{held:?}");
        assert!(held.last() <= Some(&(16 * 1024)), "{held:?}");
        assert_eq!(filter.counts().judged, 2);
    }
}

/// Before more of it has come, so that it takes no memory.
#[test]
fn what_is_longer_than_it_may_be_ends_the_response_at_once() {
    let list = |length: usize, begun: &[u8]| {
        let mut body = [
            b"k8s\0".to_vec(),
            field(1, [field(1, "v1"), field(2, "PodList")].concat()),
        ]
        .concat();
        varint(&mut body, 2 << 3 | 2);
        varint(&mut body, length);
        body.extend_from_slice(begun);
        (Filter::list(Encoding::Protobuf), body)
    };
    let begun = |length: usize| {
        let mut item = Vec::new();
        varint(&mut item, 2 << 3 | 2);
        varint(&mut item, length);
        item
    };
    let frame = (ITEM_LIMIT as u32 + 1).to_be_bytes();
    for ((mut filter, body), code) in [
        // An item longer than its list, and one of whose length the list has no room for.
        (list(10, &begun(100)), "protobuf"),
        (list(1, &[2 << 3 | 2, 100, 0, 0]), "protobuf"),
        (list(2 * ITEM_LIMIT, &begun(ITEM_LIMIT + 1)), "too_large"),
        ((Filter::watch(Encoding::Protobuf), frame.to_vec()), "too_large"),
    ] {
        let mut out = Vec::new();
        let pushed = filter.push(&body, &mut |_| false, &mut out);
        assert_eq!(pushed.map_err(FilterError::code), Err(code), "{body:?}");
    }
}

#[test]
fn a_bookmark_of_a_hidden_object_goes() {
    let body = frame("BOOKMARK", &envelope("v1", "Pod", &field(1, metadata(&hidden()))));
    let (out, counts) = run(Filter::watch(Encoding::Protobuf), &body, &mut Random::new(1));
    assert_eq!((out.len(), counts.map(|counts| counts.hidden)), (0, Ok(1)));
}

/// The room that hidden items had tells neither how many there were nor how large each of them was.
#[test]
fn padding_does_not_count_hidden_items() {
    let of_length = |length: usize| {
        let head = field(1, metadata(&hidden()));
        let filler = "f".repeat(length - head.len() - 2 - 2);
        let item = [head, field(2, filler)].concat();
        field(2, item)
    };
    let of = |items: &[Vec<u8>]| {
        let body = envelope("v1", "PodList", &items.concat());
        let (out, counts) = run(Filter::list(Encoding::Protobuf), &body, &mut Random::new(1));
        assert_eq!(counts.map(|counts| counts.hidden), Ok(items.len() as u64));
        out
    };
    let (one, two) = (of(&[of_length(110)]), of(&[of_length(60), of_length(50)]));
    assert_eq!(one.len(), two.len());
    assert_eq!(one, two);
}
