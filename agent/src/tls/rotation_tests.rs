//! Unit tests: while the node CA is renewed, and while its root changes, no handshake fails.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::SystemTime;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::*;
use crate::pki::testing::Root;
use crate::pki::{CaFiles, CaRequest, LeafNames};
use crate::runtime::state::StateDirectory;

const FILE: &str = "node-ca.pem";
const DIALLED: &str = "10.96.0.1";
const RENEWALS: usize = 12;

/// A client that trusts these roots.
fn client(roots: &[&Root]) -> Arc<ClientConfig> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.der()).expect("a root");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions");
    Arc::new(builder.with_root_certificates(store).with_no_client_auth())
}

/// Puts a new node CA of this root in place, as the agent keeps it, and has it followed.
fn renew(state: &StateDirectory, root: &Root, certificates: &Certificates) {
    write(state, root);
    certificates.renew_due(SystemTime::now());
    assert_eq!(certificates.status().error, None);
}

fn write(state: &StateDirectory, root: &Root) {
    let (request, now) = (
        CaRequest::new("picket node CA n").expect("a request"),
        SystemTime::now(),
    );
    let issued = root.sign(&request.pem, now);
    let names = LeafNames::new(&[]).expect("names");
    let ca = request
        .check(issued.as_bytes(), Duration::from_secs(72 * 3600), &names, now)
        .expect("a CA");
    state.write(FILE, ca.pem.as_bytes()).expect("written");
}

/// A handshake by the Service's address, and one by a name, each with a certificate of this moment.
async fn handshake(
    certificates: &Certificates,
    shared: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
) -> Result<(), String> {
    let dialled: IpAddr = DIALLED.parse().expect("an address");
    for name in [DIALLED, "kubernetes.default.svc"] {
        let config = certificates
            .config_for(shared, dialled)
            .map_err(|error| error.to_string())?;
        let (theirs, ours) = tokio::io::duplex(1 << 15);
        let name = ServerName::try_from(name).expect("a name");
        let (accepted, connected) = tokio::join!(
            accept(config, ours, HANDSHAKE_LIMIT),
            TlsConnector::from(Arc::clone(client)).connect(name, theirs)
        );
        connected.map_err(|error| error.to_string())?;
        accepted.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Has clients shake hands without a pause while `renewals` happen; the failures, and how many succeeded.
async fn under_load(
    certificates: &Arc<Certificates>,
    client: &Arc<ClientConfig>,
    renewals: impl FnMut(usize) + Send + 'static,
) -> (Vec<String>, usize) {
    let shared = certificates.server_config().expect("a configuration");
    let (done, count) = (Arc::new(AtomicBool::default()), Arc::new(AtomicUsize::default()));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let (certificates, shared, client) =
            (Arc::clone(certificates), Arc::clone(&shared), Arc::clone(client));
        let (done, count) = (Arc::clone(&done), Arc::clone(&count));
        clients.spawn(async move {
            let mut failures = Vec::new();
            while !done.load(Ordering::Relaxed) {
                failures.extend(handshake(&certificates, &shared, &client).await.err());
                count.fetch_add(1, Ordering::Relaxed);
            }
            failures
        });
    }
    let mut renewals = renewals;
    for renewal in 0..RENEWALS {
        // Each CA is met by some.
        let seen = count.load(Ordering::Relaxed);
        while count.load(Ordering::Relaxed) < seen + 6 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        renewals(renewal);
    }
    let seen = count.load(Ordering::Relaxed);
    while count.load(Ordering::Relaxed) < seen + 6 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    done.store(true, Ordering::Relaxed);
    let failures = clients.join_all().await.concat();
    (failures, count.load(Ordering::Relaxed))
}

fn served(state: &StateDirectory, root: &Root) -> Arc<Certificates> {
    write(state, root);
    Certificates::open(CaFiles::in_one(state.file(FILE)), &[], Arc::default()).expect("names")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_renewed_node_ca_fails_no_handshake_of_a_client_that_trusts_the_root_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let (state, root) = (StateDirectory::new(folder.path()), Arc::new(Root::new("one")));
    let certificates = served(&state, &root);
    let (followed, signing) = (Arc::clone(&certificates), Arc::clone(&root));
    let (failures, count) = under_load(&certificates, &client(&[&root]), move |_| {
        renew(&state, &signing, &followed);
    })
    .await;
    assert_eq!(failures, [""; 0]);
    assert!(count > 6 * RENEWALS, "{count} handshakes");
    assert_eq!(certificates.status().published, 1 + RENEWALS as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_changed_root_fails_no_handshake_of_a_client_that_trusts_both() {
    let folder = tempfile::tempdir().expect("a folder");
    let state = StateDirectory::new(folder.path());
    let roots = [Arc::new(Root::new("one")), Arc::new(Root::new("two"))];
    let certificates = served(&state, &roots[0]);
    let (followed, both) = (Arc::clone(&certificates), client(&[&roots[0], &roots[1]]));
    let signing = roots.clone();
    let (failures, count) = under_load(&certificates, &both, move |renewal| {
        renew(&state, &signing[(renewal + 1) % 2], &followed);
    })
    .await;
    assert_eq!(failures, [""; 0]);
    assert!(count > 6 * RENEWALS, "{count} handshakes");
    // The last is of the first root: who trusts the second alone is told that it does not know it.
    let shared = certificates.server_config().expect("a configuration");
    let last = |root: &Root| client(&[root]);
    assert_eq!(handshake(&certificates, &shared, &last(&roots[0])).await, Ok(()));
    let other = handshake(&certificates, &shared, &last(&roots[1])).await;
    assert!(other.is_err_and(|error| error.contains("UnknownIssuer")));
}

#[tokio::test]
async fn without_a_node_ca_no_handshake_succeeds_until_one_is_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let (state, root) = (StateDirectory::new(folder.path()), Root::new("one"));
    let files = CaFiles::in_one(state.file(FILE));
    let certificates = Certificates::open(files, &[], Arc::default()).expect("names");
    let shared = certificates.server_config().expect("a configuration");
    let client = client(&[&root]);
    assert!(
        certificates
            .fault()
            .is_some_and(|fault| fault.contains("No such file"))
    );
    assert!(handshake(&certificates, &shared, &client).await.is_err());
    renew(&state, &root, &certificates);
    assert_eq!(handshake(&certificates, &shared, &client).await, Ok(()));
}

#[test]
fn a_key_that_comes_after_its_certificate_is_waited_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = CaFiles {
        certificate: folder.path().join("ca.crt"),
        key: folder.path().join("ca.key"),
    };
    let [one, two] = ["one", "two"].map(|name| crate::pki::ca::create(name).expect("a CA"));
    std::fs::write(&files.certificate, one.certificate_pem).expect("written");
    std::fs::write(&files.key, one.key_pem).expect("written");
    let certificates = Certificates::open(files.clone(), &[], Arc::default()).expect("names");
    std::fs::write(&files.certificate, two.certificate_pem).expect("written");
    certificates.renew_due(SystemTime::now());
    let error = certificates.status().error.expect("half a pair");
    assert!(
        error.contains("this is not the key of the certificate"),
        "{error}"
    );
    assert_eq!((certificates.fault(), certificates.status().published), (None, 1));
    std::fs::write(&files.key, two.key_pem).expect("written");
    certificates.renew_due(SystemTime::now());
    assert_eq!(
        (certificates.status().error, certificates.status().published),
        (None, 2)
    );
}
