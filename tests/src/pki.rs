//! The cluster's certificates: one authority, what each part serves and calls with, and client certificates on demand.
//!
//! In: names and addresses. Out: PEM files under the cluster's `pki` folder.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// A certificate and its key, as files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, PEM.
    pub cert: PathBuf,
    /// The private key, PKCS #8 PEM.
    pub key: PathBuf,
}

/// The cluster's certificate authority, in a folder.
#[derive(Debug, Clone)]
pub struct Authority {
    folder: PathBuf,
}

impl Authority {
    /// Makes a new authority in `folder`, and the key that service-account tokens are signed with.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let mut params = CertificateParams::new(Vec::new())?;
        params
            .distinguished_name
            .push(DnType::CommonName, "picket test cluster");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let key = KeyPair::generate()?;
        let cert = params.self_signed(&key)?;
        let authority = Self {
            folder: folder.to_owned(),
        };
        authority.write("ca", &cert.pem(), &key)?;
        let service_accounts = KeyPair::generate()?;
        let pair = authority.service_accounts();
        fs::write(pair.key, service_accounts.serialize_pem())?;
        fs::write(pair.cert, service_accounts.public_key_pem())?;
        Ok(authority)
    }

    /// The authority that [`Authority::create`] made in `folder`.
    pub fn open(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// The authority's own certificate and key.
    pub fn pair(&self) -> CertificateFiles {
        self.files("ca")
    }

    /// The key that service-account tokens are signed with; in the certificate's place is the bare public key.
    pub fn service_accounts(&self) -> CertificateFiles {
        self.files("service-accounts")
    }

    /// A server's certificate for these names and addresses; `file` names the files.
    ///
    /// # Errors
    /// A name is none, or a file cannot be written.
    pub fn server(&self, file: &str, names: &[&str]) -> Result<CertificateFiles> {
        let mut params =
            CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, file);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(file, params)
    }

    /// A client certificate; the API server reads the common name as the user and the organization as its group.
    /// `file` names the files.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn client(&self, file: &str, user: &str, group: Option<&str>) -> Result<CertificateFiles> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(file, params)
    }

    /// A client certificate with these URI names, as a SPIFFE workload has one; `change` makes it another one than it should be.
    ///
    /// # Errors
    /// A name is none, or a file cannot be written.
    pub fn svid(
        &self,
        file: &str,
        uris: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Result<CertificateFiles> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        for uri in uris {
            params.subject_alt_names.push(SanType::URI((*uri).try_into()?));
        }
        change(&mut params);
        self.sign(file, params)
    }

    fn sign(&self, file: &str, mut params: CertificateParams) -> Result<CertificateFiles> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let ca = self.pair();
        let ca_key = KeyPair::from_pem(&fs::read_to_string(&ca.key)?)?;
        let issuer = Issuer::from_ca_cert_pem(&fs::read_to_string(&ca.cert)?, ca_key)?;
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &issuer)?;
        self.write(file, &cert.pem(), &key)
    }

    fn files(&self, file: &str) -> CertificateFiles {
        CertificateFiles {
            cert: self.folder.join(format!("{file}.crt")),
            key: self.folder.join(format!("{file}.key")),
        }
    }

    fn write(&self, file: &str, cert: &str, key: &KeyPair) -> Result<CertificateFiles> {
        let pair = self.files(file);
        fs::write(&pair.cert, cert).with_context(|| format!("write {}", pair.cert.display()))?;
        fs::write(&pair.key, key.serialize_pem()).with_context(|| format!("write {}", pair.key.display()))?;
        Ok(pair)
    }
}

/// A kubeconfig that calls `server` with this certificate, everything named by its file.
pub fn kubeconfig(server: &str, ca: &Path, pair: &CertificateFiles) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
         clusters: [{{name: test, cluster: {{server: \"{server}\", certificate-authority: \"{}\"}}}}]\n\
         users: [{{name: test, user: {{client-certificate: \"{}\", client-key: \"{}\"}}}}]\n\
         contexts: [{{name: test, context: {{cluster: test, user: test}}}}]\n",
        ca.display(),
        pair.cert.display(),
        pair.key.display(),
    )
}
