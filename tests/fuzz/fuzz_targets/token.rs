//! Any bearer token: no panic, and what is read was in the bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use picket_policy::token::{TOKEN_LIMIT, TokenClaims};

fuzz_target!(|data: &[u8]| {
    // As it comes, encoded once more, and as the claims of a token, which a fuzzer would not often put together.
    drop(TokenClaims::read_encoded(data));
    let claims = format!("e30.{}.c2ln", encode(data));
    for token in [data, claims.as_bytes()] {
        let Some(read) = TokenClaims::read(token) else {
            continue;
        };
        assert!(token.len() <= TOKEN_LIMIT);
        let texts = [&read.namespace, &read.service_account, &read.issuer];
        assert!(texts.into_iter().chain(&read.audiences).all(|text| text.len() <= TOKEN_LIMIT));
        let encoded = encode(token);
        assert_eq!(TokenClaims::read_encoded(encoded.as_bytes()), Some(read));
    }
});

fn encode(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..=group.len() {
            text.push(char::from(ALPHABET[(bits >> (18 - 6 * place) & 63) as usize]));
        }
    }
    text
}
