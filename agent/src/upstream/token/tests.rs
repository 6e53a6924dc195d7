//! When a token is requested, by whom, and for how long it is used.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::join_all;

use super::request::{Issued, Issuing};
use super::*;
use crate::upstream::credential::bearer_value;

/// Issues tokens after a moment, as long as it is told to.
#[derive(Default)]
struct Fake {
    requests: AtomicUsize,
    fails: bool,
    lifetime: Option<u64>,
}

impl TokenRequester for Fake {
    fn request(&self, account: &ServiceAccount, lifetime: Duration) -> Issuing {
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let (fails, account) = (self.fails, name_of(account));
        let lifetime = self.lifetime.map_or(lifetime, Duration::from_secs);
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            match fails {
                true => Err(AccountTokenError::Forbidden(account)),
                false => Ok(Issued {
                    authorization: bearer_value(format!("{account}-{number}").as_bytes()).expect("a token"),
                    id: "JTI=1".into(),
                    lifetime,
                }),
            }
        })
    }
}

impl Fake {
    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

fn bot() -> ServiceAccount {
    ServiceAccount::new("ci", "bot")
}

async fn text(tokens: &Tokens, fake: &Fake) -> String {
    let token = tokens.get(&bot(), fake).await.expect("a token");
    token.authorization.to_str().expect("text").to_owned()
}

#[tokio::test(start_paused = true)]
async fn those_who_need_a_token_at_once_share_a_request() {
    let (tokens, fake) = (Tokens::default(), Fake::default());
    let all = join_all((0..100).map(|_| text(&tokens, &fake))).await;
    assert!(all.iter().all(|text| text == "Bearer ci/bot-1"), "{all:?}");
    assert_eq!(fake.requests(), 1);
    // Each account has its own.
    let other = ServiceAccount::new("ci-bot", "x");
    let token = tokens.get(&other, &fake).await.expect("a token");
    assert_eq!(token.authorization, "Bearer ci-bot/x-2");
}

#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_before_its_end_and_nobody_waits() {
    let (tokens, fake) = (Tokens::default(), Fake::default());
    assert_eq!(text(&tokens, &fake).await, "Bearer ci/bot-1");
    tokio::time::sleep(Duration::from_secs(410)).await;
    assert_eq!(text(&tokens, &fake).await, "Bearer ci/bot-1");
    tokio::task::yield_now().await;
    assert_eq!(fake.requests(), 1, "seven tenths of its life are not over");
    tokio::time::sleep(Duration::from_secs(80)).await;
    // A crowd again asks once, and goes on with what there is.
    let began = Instant::now();
    let all = join_all((0..10).map(|_| text(&tokens, &fake))).await;
    assert!(all.iter().all(|text| text == "Bearer ci/bot-1"), "{all:?}");
    assert_eq!((fake.requests(), began.elapsed()), (2, Duration::ZERO));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(text(&tokens, &fake).await, "Bearer ci/bot-2");
    assert_eq!(fake.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_ended_is_not_sent_and_an_idle_account_costs_nothing() {
    let (tokens, fake) = (Tokens::default(), Fake::default());
    assert_eq!(text(&tokens, &fake).await, "Bearer ci/bot-1");
    tokio::time::sleep(LIFETIME - MARGIN).await;
    tokens.sweep();
    assert!(tokens.0.lock().is_empty());
    assert_eq!(fake.requests(), 1);
    assert_eq!(text(&tokens, &fake).await, "Bearer ci/bot-2");
}

/// No answer makes a token last longer than it was asked for.
#[tokio::test(start_paused = true)]
async fn a_lifetime_that_the_server_shortened_or_stretched_is_heeded() {
    for (lifetime, usable) in [(60, 50), (1 << 40, 590), (5, 0), (0, 0)] {
        let fake = Fake {
            lifetime: Some(lifetime),
            ..Fake::default()
        };
        let tokens = Tokens::default();
        let asked = Instant::now();
        let token = tokens.get(&bot(), &fake).await.expect("a token");
        assert_eq!((token.ends - asked).as_secs(), usable, "{lifetime}");
        let shares = (token.renew_at - asked).as_secs_f64() / lifetime.min(600) as f64;
        assert!(lifetime == 0 || (0.69..0.81).contains(&shares), "{shares}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_not_repeated_at_once_and_spoils_no_token_that_is_good() {
    let (tokens, failing) = (
        Tokens::default(),
        Fake {
            fails: true,
            ..Fake::default()
        },
    );
    for _ in 0..5 {
        let error = tokens.get(&bot(), &failing).await.expect_err("no token");
        assert_eq!(error, AccountTokenError::Forbidden("ci/bot".to_owned()));
    }
    assert_eq!(failing.requests(), 1);
    tokio::time::sleep(PAUSE).await;
    let fake = Fake::default();
    assert_eq!(text(&tokens, &fake).await, "Bearer ci/bot-1");
    // Due for renewal, which fails every few seconds.
    tokio::time::sleep(Duration::from_secs(500)).await;
    for _ in 0..10 {
        assert_eq!(text(&tokens, &failing).await, "Bearer ci/bot-1");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!((4..=6).contains(&failing.requests()), "{}", failing.requests());
}

#[tokio::test(start_paused = true)]
async fn one_who_leaves_takes_no_request_away() {
    let (tokens, fake) = (Tokens::default(), Fake::default());
    let leaving = tokio::time::timeout(Duration::from_millis(1), text(&tokens, &fake));
    assert!(leaving.await.is_err());
    assert_eq!(text(&tokens, &fake).await, "Bearer ci/bot-1");
    assert_eq!(fake.requests(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_breaks_down_is_followed_by_another() {
    struct Broken;
    impl TokenRequester for Broken {
        fn request(&self, _: &ServiceAccount, _: Duration) -> Issuing {
            Box::pin(async { panic!("as a test of panics") })
        }
    }
    let tokens = Tokens::default();
    let error = tokens.get(&bot(), &Broken).await.expect_err("no token");
    assert!(error.is_transient(), "{error}");
    assert_eq!(text(&tokens, &Fake::default()).await, "Bearer ci/bot-1");
}

#[tokio::test(start_paused = true)]
async fn so_many_accounts_are_kept_and_no_more() {
    let (tokens, fake) = (Tokens::default(), Fake::default());
    for number in 0..MAX_ACCOUNTS + 3 {
        let account = ServiceAccount::new("ci", &format!("bot-{number}"));
        tokens.get(&account, &fake).await.expect("a token");
    }
    let entries = tokens.0.lock();
    assert_eq!(entries.len(), MAX_ACCOUNTS);
    // What ends first went first.
    assert!(!entries.contains_key(&ServiceAccount::new("ci", "bot-0")));
}

#[tokio::test(start_paused = true)]
async fn a_token_is_not_shown() {
    let (tokens, fake) = (Tokens::default(), Fake::default());
    let token = tokens.get(&bot(), &fake).await.expect("a token");
    let shown = format!("{token:?} {:?} {:?}", token.authorization, tokens);
    assert!(!shown.contains("bot-1"), "{shown}");
}
