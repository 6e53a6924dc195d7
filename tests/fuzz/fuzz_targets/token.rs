//! Any bearer token: no panic, and what is read was in the bytes.
#![no_main]

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use picket_policy::token::{TOKEN_LIMIT, TokenClaims};

fuzz_target!(|data: &[u8]| {
    // As it comes, encoded once more, and as the claims of a token, which a fuzzer would not often put together.
    drop(TokenClaims::read_encoded(data));
    let claims = format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(data));
    for token in [data, claims.as_bytes()] {
        let Some(read) = TokenClaims::read(token) else {
            continue;
        };
        assert!(token.len() <= TOKEN_LIMIT);
        let texts = [&read.namespace, &read.service_account, &read.issuer];
        assert!(
            texts
                .into_iter()
                .chain(&read.audiences)
                .all(|text| text.len() <= TOKEN_LIMIT)
        );
        let encoded = BASE64_URL_SAFE_NO_PAD.encode(token);
        assert_eq!(TokenClaims::read_encoded(encoded.as_bytes()), Some(read));
    }
});
