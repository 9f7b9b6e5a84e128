//! Addresses in the cloud, and what of the environment belongs to them.

use std::path::Path;

use object_store::path::Path as Key;

use crate::error::DataError;

/// The kinds of places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    S3,
    Gs,
    Az,
    Http,
}

/// An address, taken apart.
#[derive(Clone, Debug)]
pub(super) struct Location {
    /// As it was typed, without a slash at the end.
    pub(super) address: String,
    pub(super) scheme: Scheme,
    /// Scheme and bucket or host: `s3://bucket`.
    pub(super) base: String,
    /// What comes after the bucket or host.
    path: Key,
}

impl Location {
    pub(super) fn parse(location: &Path) -> Result<Self, DataError> {
        let wrong = |expected: &str, got: &str, fix: &str| DataError::Content {
            path: location.to_path_buf(),
            what: "the address".to_owned(),
            expected: expected.to_owned(),
            got: got.to_owned(),
            fix: fix.to_owned(),
        };
        let form = "s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or http(s)://host/path";
        let address = location.to_str().ok_or_else(|| wrong(form, "other bytes than UTF-8", "type it again"))?;
        let address = address.trim_end_matches('/');
        let (scheme, rest) = address.split_once("://").unwrap_or_default();
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let kind = match scheme {
            "s3" => Scheme::S3,
            "gs" => Scheme::Gs,
            "az" => Scheme::Az,
            "http" | "https" => Scheme::Http,
            _ => return Err(wrong(form, address, "type it in one of these forms")),
        };
        if host.is_empty() {
            return Err(wrong(form, "no bucket or host", "name it after the ://"));
        }
        if host.contains('@') {
            let fix = "put credentials into the environment: an address is printed and saved with the run";
            return Err(wrong("without credentials", "something before an @", fix));
        }
        if kind == Scheme::Http && address.contains(['?', '#']) {
            return Err(wrong("without a query", "a ? or #", "signed addresses expire; use s3://, gs:// or az://"));
        }
        let path = if kind == Scheme::Http { Key::from_url_path(path) } else { Key::parse(path) };
        let path = path.map_err(|error| wrong("a path of names", &error.to_string(), "remove what is no name"))?;
        Ok(Self { address: address.to_owned(), scheme: kind, base: format!("{scheme}://{host}"), path })
    }

    /// The address of a key of its bucket.
    pub(super) fn address_of(&self, key: &Key) -> String {
        format!("{}/{key}", self.base)
    }

    /// A key relative to this place; the last name of its own key.
    pub(super) fn relative<'k>(&self, key: &'k Key) -> &'k str {
        let (key, own) = (key.as_ref(), self.path.as_ref());
        match key.strip_prefix(own).map(|rest| rest.trim_start_matches('/')) {
            Some(rest) if !rest.is_empty() => rest,
            _ => key.rsplit('/').next().unwrap_or(key),
        }
    }

    pub(super) fn key(&self) -> &Key {
        &self.path
    }

    /// What of the environment was looked at, with the values of what is no secret.
    pub(super) fn environment(&self) -> String {
        let names: &[&str] = match self.scheme {
            Scheme::S3 => &[
                "AWS_ACCESS_KEY_ID",
                "AWS_SECRET_ACCESS_KEY",
                "AWS_SESSION_TOKEN",
                "AWS_REGION",
                "AWS_ENDPOINT",
                "AWS_SKIP_SIGNATURE",
            ],
            Scheme::Gs => &["GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SKIP_SIGNATURE"],
            Scheme::Az => &[
                "AZURE_STORAGE_ACCOUNT_NAME",
                "AZURE_STORAGE_ACCOUNT_KEY",
                "AZURE_STORAGE_SAS_TOKEN",
                "AZURE_CLIENT_ID",
                "AZURE_SKIP_SIGNATURE",
            ],
            Scheme::Http => return "the address alone".to_owned(),
        };
        let shown = |name: &&str| match std::env::var(name).ok().filter(|value| !value.is_empty()) {
            Some(value) if name.ends_with("REGION") || name.ends_with("ENDPOINT") => format!("{name} ({value})"),
            Some(_) => format!("{name} (set)"),
            None => format!("{name} (not set)"),
        };
        names.iter().map(shown).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn credentials_fix(&self) -> String {
        match self.scheme {
            Scheme::S3 => {
                "set keys that may list and read this place, or AWS_SKIP_SIGNATURE=true for a public bucket; AWS_ENDPOINT for \
                 a server that is not Amazon's"
            }
            Scheme::Gs => "set an account that may list and read this place, or GOOGLE_SKIP_SIGNATURE=true for a public bucket",
            Scheme::Az => "set an account that may list and read this place, or AZURE_SKIP_SIGNATURE=true for a public container",
            Scheme::Http => "the server must give this address without a password",
        }
        .to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(address: &str) -> Result<Location, String> {
        Location::parse(Path::new(address)).map_err(|error| error.to_string())
    }

    #[test]
    fn addresses_are_taken_apart() {
        let location = parsed("s3://bucket/a/b/").expect("an address");
        assert_eq!(
            (location.scheme, location.base.as_str(), location.path.as_ref()),
            (Scheme::S3, "s3://bucket", "a/b")
        );
        let key = Key::from("a/b/c/d.tar");
        assert_eq!(location.relative(&key), "c/d.tar");
        assert_eq!(location.address_of(&key), "s3://bucket/a/b/c/d.tar");
        let location = parsed("http://host:80/x%20y.tar").expect("an address");
        assert_eq!(location.path.as_ref(), "x y.tar");
        assert_eq!(location.relative(location.key()), "x y.tar");
        assert_eq!(parsed("gs://bucket").expect("an address").path.as_ref(), "");
    }

    #[test]
    fn wrong_addresses_say_what_is_wrong() {
        for (address, what) in [
            ("s3:///key", "no bucket or host"),
            ("https://user:secret@host/a.tar", "before an @"),
            ("https://host/a.tar?sig=1", "a ? or #"),
            ("s3://bucket/a//b", "a path of names"),
        ] {
            let error = parsed(address).expect_err(address);
            assert!(error.contains(what), "{address}: {error}");
        }
    }
}
