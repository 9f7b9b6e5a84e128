//! Why a request to the cloud failed, and what that says: the data is gone, or it could not be looked at.

use std::error::Error;
use std::io;
use std::path::Path;
use std::time::Duration;

use object_store::client::HttpError;

use super::location::Location;
use crate::error::DataError;

/// Bytes of a server's answer in a message.
const MAX_ANSWER: usize = 300;

/// What stands before the status in the text of an error.
const STATUS: &str = "status code: ";

/// A failed request.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// There is no such object.
    Gone(String),
    /// It is not what it was when it was listed.
    Changed(String),
    /// The credentials are wrong, missing, or not enough.
    Denied(String),
    /// The server will answer the same again.
    Refused(String),
    /// No answer, or none but errors of the server, for as long as one is waited for.
    Away { n_tried: u32, waited: Duration, last: String },
    /// The cache on disk cannot be written.
    Disk(String),
    /// Nobody wants it any more.
    Stopped,
}

impl Failure {
    pub(super) fn disk(error: io::Error) -> Self {
        Self::Disk(error.to_string())
    }

    /// What an error says at once; `None` where trying again may help.
    pub(super) fn of(error: &object_store::Error) -> Option<Self> {
        use object_store::Error as E;
        let (text, whole) = (answer(error), error.to_string());
        match error {
            E::NotFound { .. } => Some(Self::Gone(text)),
            E::Precondition { .. } | E::NotModified { .. } => Some(Self::Changed(text)),
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => Some(Self::Denied(text)),
            E::Generic { .. } => match status(&whole) {
                // Time-outs and too many requests.
                Some(408 | 429 | 500..) => None,
                // Errors of a listing are of this kind whatever they say.
                Some(401 | 403) => Some(Self::Denied(text)),
                Some(404) => Some(Self::Gone(text)),
                // Amazon's answers to expired and malformed keys.
                Some(_) if whole.contains("Token") || whole.contains("Authorization") => Some(Self::Denied(text)),
                Some(_) => Some(Self::Refused(text)),
                None if is_of_network(error) => None,
                None => Some(Self::Refused(text)),
            },
            _ => Some(Self::Refused(text)),
        }
    }

    /// As the error of a data set; `address` of what was asked for.
    pub(super) fn at(self, address: &str, location: &Location) -> DataError {
        let cloud = |problem: String, fix: String| DataError::Cloud { location: address.to_owned(), problem, fix };
        let content = |expected: &str, got: String, fix: &str| DataError::Content {
            path: Path::new(address).to_path_buf(),
            what: "what the address names".to_owned(),
            expected: expected.to_owned(),
            got,
            fix: fix.to_owned(),
        };
        match self {
            Self::Gone(answer) => content(
                "there",
                format!("\"not found\" ({answer})"),
                "is the address right? A shard that was removed must come back, or the data set be opened without it",
            ),
            Self::Changed(answer) => content(
                "what it was when the data set was opened",
                format!("something else ({answer})"),
                "start again: the members of its shards are listed anew",
            ),
            Self::Denied(answer) => cloud(
                format!("the server must accept the credentials, got {answer}. Looked at {}", location.environment()),
                location.credentials_fix(),
            ),
            Self::Refused(answer) => cloud(
                format!("the server must answer with the object, got {answer}. Looked at {}", location.environment()),
                "check the address, and the endpoint and region in the environment".to_owned(),
            ),
            Self::Away { n_tried, waited, last } => cloud(
                format!(
                    "the server must answer, got none in {n_tried} attempts over {:.0} s, the last: {last}. Looked at {}",
                    waited.as_secs_f64(),
                    location.environment()
                ),
                "check the network and the endpoint; a run continues with --resume from its last save".to_owned(),
            ),
            Self::Disk(error) => cloud(
                format!("the cache must be writable, got: {error}"),
                "free the disk, or give another place or a lower limit (data.cloud_cache_dir, data.cloud_cache_gib)"
                    .to_owned(),
            ),
            Self::Stopped => cloud("the data set is being closed".to_owned(), "nothing is to be done".to_owned()),
        }
    }

    /// Whether the object itself is the matter, and not the way to it.
    pub(super) fn is_loss(&self) -> bool {
        matches!(self, Self::Gone(_) | Self::Changed(_))
    }
}

/// The error in a line: what the network says, or the status, code and message of an answer in XML, as the providers give, or
/// else the beginning.
pub(super) fn answer(error: &object_store::Error) -> String {
    // The innermost error that says something has the server's words.
    let mut deepest: &dyn Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    let deepest = deepest.to_string();
    let text = match error.to_string() {
        outer if status(&outer).is_none() && is_of_network(error) => format!("no answer: {deepest}"),
        outer if outer.contains(&deepest) => outer,
        outer => format!("{outer} ({deepest})"),
    };
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let element = |name: &str| {
        let (_, after) = text.split_once(&format!("<{name}>"))?;
        Some(after.split_once("</")?.0)
    };
    let text = match (text.split_once(STATUS), element("Code")) {
        (Some((_, after)), Some(code)) => {
            let status = after.split(':').next().unwrap_or_default();
            format!("{STATUS}{status}: {code}: {}", element("Message").unwrap_or_default().trim_end_matches('.'))
        }
        _ => text,
    };
    match text.char_indices().nth(MAX_ANSWER) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text,
    }
}

/// The status in the text of an error: the type that holds it is private to `object_store`.
fn status(text: &str) -> Option<u16> {
    let (_, after) = text.split_once(STATUS)?;
    after.get(..3)?.parse().ok()
}

fn is_of_network(error: &object_store::Error) -> bool {
    let mut current: Option<&dyn Error> = Some(error);
    while let Some(error) = current {
        if error.is::<HttpError>() || error.is::<io::Error>() {
            return true;
        }
        current = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> object_store::Error {
        object_store::Error::Generic { store: "S3", source: text.into() }
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let failed = |status: &str| {
            let text = format!("Error performing GET http://x in 1ms - Server returned non-2xx status code: {status}");
            Failure::of(&generic(&text))
        };
        for status in ["500 Internal Server Error: ", "503 Slow Down: ", "429 Too Many Requests: ", "408 : "] {
            assert!(failed(status).is_none(), "{status}");
        }
        assert!(matches!(failed("400 Bad Request: <Code>ExpiredToken</Code>"), Some(Failure::Denied(_))));
        assert!(matches!(failed("416 Range Not Satisfiable: "), Some(Failure::Refused(_))));
        assert!(matches!(Failure::of(&generic("no range")), Some(Failure::Refused(_))));
        assert!(matches!(failed("403 Forbidden: <Code>InvalidAccessKeyId</Code>"), Some(Failure::Denied(_))));
        assert!(matches!(failed("404 Not Found: <Code>NoSuchBucket</Code>"), Some(Failure::Gone(_))));
        let Some(Failure::Denied(text)) = failed("403 Forbidden: <Error><Code>A</Code><Message>Not you</Message>")
        else {
            panic!("denied")
        };
        assert_eq!(text, "status code: 403 Forbidden: A: Not you");
        let gone = object_store::Error::NotFound { path: "a".to_owned(), source: "404".into() };
        assert!(Failure::of(&gone).is_some_and(|failure| failure.is_loss()));
    }

    #[test]
    fn long_answers_are_one_short_line() {
        let text = answer(&generic(&"<Error>\n  <Code>X</Code>\n".repeat(100)));
        assert!(text.chars().count() == MAX_ANSWER + 2 && !text.contains('\n'), "{text}");
    }
}
