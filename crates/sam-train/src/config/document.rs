//! A configuration as it was typed: a tree of values, each with its line in the file or the option that it came from.
//!
//! `--set KEY=VALUE` changes the tree before anything is read, so an override passes the same checks as the file, and it wins
//! over keys of the file that exclude it ([`super::precedence`]). It is split at the first `=`; the value is TOML, and text that
//! is not valid TOML is taken literally, so that nobody has to quote twice for a shell, and backslashes stay what they are. The options of a command become a tree in the same way: see [`super::options`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problems::{ConfigError, Place, Problem};

/// A parsed configuration.
#[derive(Debug)]
pub(crate) struct Document {
    /// The file or command, as messages name it.
    pub(crate) file: String,
    /// The folder of the file; some paths are relative to it.
    pub(crate) folder: PathBuf,
    /// Values from the command line, in order.
    pub(crate) overrides: Vec<Override>,
    /// What the command line replaced, one sentence each.
    pub(crate) notes: Vec<String>,
    /// The top of the tree.
    pub(crate) root: Table,
}

/// A value from the command line.
#[derive(Clone, Debug)]
pub(crate) struct Override {
    /// The option as it was typed, for messages.
    pub(crate) typed: String,
    /// The key that it sets.
    pub(crate) key: String,
}

/// Values by key.
pub(crate) type Table = BTreeMap<String, Node>;

/// A value and where it was typed.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// The place of the key, or of the element of a list.
    pub(crate) place: Place,
    pub(crate) content: Content,
    /// As it was typed, for messages.
    pub(crate) shown: String,
}

/// A value by its type.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    Text(String),
    /// `None` when it does not fit the 64 bits that TOML's integers have.
    Integer(Option<i64>),
    Float(f64),
    Flag(bool),
    /// A date or time; no key takes one.
    Time,
    List(Vec<Node>),
    Table(Table),
}

impl Document {
    /// Reads a file and applies the overrides.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, with all syntax errors, or with all overrides that cannot be applied.
    pub(crate) fn load(path: &Path, sets: &[String]) -> Result<Self, ConfigError> {
        let file = path.display().to_string();
        let text = sam_files::read_text(path, sam_files::MAX_TEXT_BYTES)
            .map_err(|error| ConfigError::of_file(&file, format!("must be a readable TOML file: {error}")))?;
        let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
        Self::parse(&file, folder, &text, sets)
    }

    /// Parses a text.
    ///
    /// # Errors
    ///
    /// As [`Document::load`].
    pub(crate) fn parse(file: &str, folder: PathBuf, text: &str, sets: &[String]) -> Result<Self, ConfigError> {
        let (table, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            return Err(ConfigError::new(file, &[], syntax_problems(text, &errors)));
        }
        let place = |offset: usize| Place::Line(line_of(text, offset));
        let typed = |set: &String| Override {
            typed: format!("--set {set}"),
            key: set.split('=').next().unwrap_or_default().trim().to_owned(),
        };
        let mut document = Self {
            file: file.to_owned(),
            folder,
            overrides: sets.iter().map(typed).collect(),
            notes: Vec::new(),
            root: table_from(table.get_ref(), text, &place),
        };
        let apply = |(index, set): (usize, &String)| document.apply_set(index, set).err();
        let problems: Vec<Problem> = sets.iter().enumerate().filter_map(apply).collect();
        document.prefer_overrides();
        if problems.is_empty() { Ok(document) } else { Err(ConfigError::new(file, &document.overrides, problems)) }
    }

    /// The value of a key with its sections, such as `schedule.steps` or, in a list of sections, `data[0].path`.
    pub(crate) fn node(&self, key: &str) -> Option<&Node> {
        let mut parts = key.split('.');
        let mut node = child(&self.root, parts.next()?)?;
        for part in parts {
            node = child(node.table()?, part)?;
        }
        Some(node)
    }

    /// The table of this name; the empty name is the top.
    pub(crate) fn table(&self, path: &str) -> Option<&Table> {
        if path.is_empty() { Some(&self.root) } else { self.node(path)?.table() }
    }

    /// Where a key was typed, or else the innermost of its sections that was.
    pub(crate) fn place(&self, key: &str) -> Place {
        let mut key = key;
        loop {
            if let Some(node) = self.node(key) {
                return node.place;
            }
            match key.rsplit_once('.') {
                Some((section, _)) => key = section,
                None => return Place::File,
            }
        }
    }

    fn apply_set(&mut self, index: usize, set: &str) -> Result<(), Problem> {
        let place = Place::Override(index);
        let problem = |message: &str| Problem { place, key: String::new(), message: message.to_owned() };
        let malformed = || problem("must be KEY=VALUE with the sections of the key, such as schedule.steps=200");
        let (key, value) = set.split_once('=').ok_or_else(malformed)?;
        let path: Vec<&str> = key.split('.').map(str::trim).collect();
        if path.iter().any(|part| part.is_empty()) {
            return Err(malformed());
        }
        let node = Node::from_set(key.trim(), value.trim(), place).map_err(|message| problem(&message))?;
        self.make_way(&path, index);
        self.insert(&path, node).map_err(|message| problem(&message))
    }

    /// Puts a value into the tree and makes the sections of its key.
    ///
    /// # Errors
    ///
    /// When one of these is a value.
    pub(crate) fn insert(&mut self, path: &[&str], node: Node) -> Result<(), String> {
        let Some((last, sections)) = path.split_last() else { return Ok(()) };
        let mut table = &mut self.root;
        for (depth, section) in sections.iter().enumerate() {
            let content = || Content::Table(Table::new());
            let section = table.entry((*section).to_owned()).or_insert_with(|| Node::new(node.place, content()));
            let Content::Table(inner) = &mut section.content else {
                let name = path[..=depth].join(".");
                return Err(format!("`{name}` is a value ({}), not a section", section.shown));
            };
            table = inner;
        }
        table.insert((*last).to_owned(), node);
        Ok(())
    }
}

/// The value of a key, or an element of a list by `key[index]`.
fn child<'t>(table: &'t Table, part: &str) -> Option<&'t Node> {
    let element = || {
        let (key, index) = part.strip_suffix(']')?.rsplit_once('[')?;
        table.get(key)?.list()?.get(index.parse::<usize>().ok()?)
    };
    table.get(part).or_else(element)
}

impl Node {
    /// A text, a list or a section that was put together from options.
    pub(crate) fn new(place: Place, content: Content) -> Self {
        let shown = match &content {
            Content::Text(text) => format!("\"{text}\""),
            Content::Table(_) => "a section".to_owned(),
            _ => "a list".to_owned(),
        };
        Self { place, content, shown }
    }

    /// The value of an option: TOML, or else literal text.
    pub(crate) fn from_option(value: &str, place: Place) -> Self {
        match DeValue::parse(value) {
            Ok(parsed) => node_from(&parsed, place, value, &|_| place),
            Err(_) => Self::new(place, Content::Text(value.to_owned())),
        }
    }

    /// As [`Node::from_option`], for what is typed after `--set KEY=`: a value that was meant to be TOML and would become
    /// something else is an error.
    fn from_set(key: &str, value: &str, place: Place) -> Result<Self, String> {
        let is_between = |open, close| value.len() > 1 && value.starts_with(open) && value.ends_with(close);
        match DeValue::parse(value) {
            Ok(_) => match escape_of(value) {
                Some(escape) => Err(format!(
                    "{key}: in double quotes `{escape}` is an escape of TOML; leave out the quotes, or use single quotes \
                     ('..'), got {value}"
                )),
                None => Ok(Self::from_option(value, place)),
            },
            Err(error) if [('"', '"'), ('\'', '\''), ('[', ']'), ('{', '}')].iter().any(|&(a, b)| is_between(a, b)) => {
                let reason = error.message();
                let hint = if value.starts_with('"') {
                    "leave out the quotes, or use single ones"
                } else {
                    "put text into quotes"
                };
                Err(format!("{key} must be valid TOML or plain text: {reason}; {hint}, got {value}"))
            }
            Err(_) => Ok(Self::from_option(value, place)),
        }
    }

    /// The value as a table.
    pub(crate) fn table(&self) -> Option<&Table> {
        match &self.content {
            Content::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The value as a list.
    pub(crate) fn list(&self) -> Option<&[Node]> {
        match &self.content {
            Content::List(list) => Some(list),
            _ => None,
        }
    }

    /// The value as a finite number, whole or not.
    pub(crate) fn number(&self) -> Option<f64> {
        match self.content {
            Content::Float(value) => Some(value).filter(|value| value.is_finite()),
            Content::Integer(value) => value.map(|value| value as f64),
            _ => None,
        }
    }

    /// The value as text. An override is text whenever text is expected, even if it looks like a number.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Text(text) => Some(text),
            Content::List(_) | Content::Table(_) => None,
            _ if matches!(self.place, Place::Override(_)) => Some(&self.shown),
            _ => None,
        }
    }
}

/// The first escape in double quotes that stands for another character: in a path of Windows, `\n` of `\new` would be a line
/// break. Only quotes and backslashes need escapes on a command line.
fn escape_of(value: &str) -> Option<String> {
    let mut quote = None;
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (None, '"' | '\'') => quote = Some(character),
            (Some('"'), '\\') => match characters.next() {
                Some('"' | '\\') | None => {}
                Some(escaped) => return Some(format!("\\{escaped}")),
            },
            (Some(open), character) if open == character => quote = None,
            _ => {}
        }
    }
    None
}

fn table_from(table: &DeTable<'_>, source: &str, place: &dyn Fn(usize) -> Place) -> Table {
    let entries = table.iter().map(|(key, value)| {
        let node = node_from(value, place(key.span().start), source, place);
        (key.get_ref().to_string(), node)
    });
    entries.collect()
}

fn node_from(value: &Spanned<DeValue<'_>>, at: Place, source: &str, place: &dyn Fn(usize) -> Place) -> Node {
    let content = match value.get_ref() {
        DeValue::String(text) => Content::Text(text.to_string()),
        DeValue::Integer(number) => Content::Integer(i64::from_str_radix(number.as_str(), number.radix()).ok()),
        DeValue::Float(number) => Content::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(flag) => Content::Flag(*flag),
        DeValue::Datetime(_) => Content::Time,
        DeValue::Array(list) => {
            let element = |value: &Spanned<DeValue<'_>>| node_from(value, place(value.span().start), source, place);
            Content::List(list.iter().map(element).collect())
        }
        DeValue::Table(table) => Content::Table(table_from(table, source, place)),
    };
    let shown = match &content {
        Content::Table(_) => "a section".to_owned(),
        _ => shortened(source.get(value.span()).unwrap_or_default()),
    };
    Node { place: at, content, shown }
}

/// On one line, and short enough for a message.
fn shortened(typed: &str) -> String {
    const MAX_SHOWN_CHARS: usize = 60;
    let line = typed.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{}..", &line[..end]),
        None => line,
    }
}

/// The line of a byte, counted from 1.
pub(crate) fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset.min(text.len())].iter().filter(|&&byte| byte == b'\n').count()
}

/// One mistake may cause several errors of the parser; the first of a line describes it.
fn syntax_problems(text: &str, errors: &[toml::de::Error]) -> Vec<Problem> {
    let mut by_line: BTreeMap<Option<usize>, (usize, &str)> = BTreeMap::new();
    for error in errors {
        let offset = error.span().map_or(0, |span| span.start);
        let line = error.span().map(|_| line_of(text, offset));
        let first = by_line.entry(line).or_insert((offset, error.message()));
        if offset < first.0 {
            *first = (offset, error.message());
        }
    }
    let problem = |(line, (_, reason)): (Option<usize>, (usize, &str))| {
        let typed = line.and_then(|line| text.lines().nth(line - 1)).unwrap_or_default();
        Problem {
            place: line.map_or(Place::File, Place::Line),
            key: String::new(),
            message: format!("must be valid TOML: {reason}; got `{}`", shortened(typed)),
        }
    };
    by_line.into_iter().map(problem).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, overrides: &[&str]) -> Result<Document, ConfigError> {
        let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
        Document::parse("c.toml", PathBuf::new(), text, &overrides)
    }

    #[test]
    fn every_value_has_its_line() {
        let text =
            "# a comment\n[model]\ninit = \"scratch\"\n\n[model.sizes]\nblocks = [1,\n  2]\n[data]\nsplit.val = 0.1\n";
        let document = parse(text, &[]).expect("valid");
        for (key, line) in [
            ("model", 2),
            ("model.init", 3),
            ("model.sizes", 5),
            ("model.sizes.blocks", 6),
            ("data.split.val", 9),
            // A missing key has the place of its section.
            ("model.checkpoint", 2),
            ("data.split.group.regex", 9),
        ] {
            assert_eq!(document.place(key), Place::Line(line), "{key}");
        }
        assert_eq!(document.place("schedule.steps"), Place::File);
        let list = parse("[[data]]\npath = \"a\"\n[[data]]\n\npath = \"b\"\n", &[]).expect("valid");
        assert_eq!(list.place("data[1].path"), Place::Line(5));
        assert_eq!(list.place("data[1].part"), Place::Line(3));
        assert_eq!(list.node("data[0].path").and_then(Node::text), Some("a"));
        let Some(Content::List(blocks)) = document.node("model.sizes.blocks").map(|node| &node.content) else {
            panic!("a list");
        };
        assert_eq!(blocks[1].place, Place::Line(7));
    }

    #[test]
    fn syntax_errors_are_reported_with_their_lines() {
        let error = parse("a = 'open\nb = 2\nc = cuda\n[d\n", &["a"]).expect_err("rejected");
        assert_eq!(
            error.lines(),
            [
                "c.toml:1: must be valid TOML: invalid literal string, expected `'`; got `a = 'open`",
                "c.toml:3: must be valid TOML: string values must be quoted, expected literal string; got `c = cuda`",
                "c.toml:4: must be valid TOML: unclosed table, expected `]`; got `[d`",
            ]
        );
        let error = parse("a = 1\nb = 2\na = 3\n", &[]).expect_err("rejected");
        assert_eq!(error.to_string(), "c.toml:3: must be valid TOML: duplicate key; got `a = 3`");
    }

    #[test]
    fn overrides_change_the_tree() {
        let overrides = [
            "schedule.steps=200",
            "run.dir = /tmp/a=b",
            "run.device=cuda:0",
            "run.name=7",
            "optimiser.betas=[0.9, 0.95]",
            "schedule.steps=300",
        ];
        let document = parse("[schedule]\nsteps = 1\n", &overrides).expect("applied");
        let node = |key: &str| document.node(key).expect("set");
        assert!(matches!(node("schedule.steps").content, Content::Integer(Some(300))), "the last one wins");
        assert_eq!(document.place("schedule.steps"), Place::Override(5));
        assert_eq!(node("run.dir").text(), Some("/tmp/a=b"), "split at the first `=`");
        assert_eq!(node("run.device").text(), Some("cuda:0"));
        assert_eq!(node("run.name").text(), Some("7"), "a name may look like a number");
        assert!(matches!(&node("optimiser.betas").content, Content::List(list) if list.len() == 2));
    }

    #[test]
    fn overrides_that_cannot_be_applied_name_the_option() {
        let error = parse("steps = 1\n", &["steps", "a..b=1", "steps.more=2", "=3"]).expect_err("rejected");
        let malformed = "must be KEY=VALUE with the sections of the key, such as schedule.steps=200";
        assert_eq!(
            error.lines(),
            [
                format!("--set steps: {malformed}"),
                format!("--set a..b=1: {malformed}"),
                "--set steps.more=2: `steps` is a value (1), not a section".to_owned(),
                format!("--set =3: {malformed}"),
            ]
        );
        assert!(error.to_string().starts_with("4 errors in the configuration"), "{error}");
    }

    #[test]
    fn text_is_taken_as_it_is_typed() {
        for (typed, expected) in [
            (r"C:\new\table", r"C:\new\table"),
            (r"'C:\new\table'", r"C:\new\table"),
            (r#""C:\\new""#, r"C:\new"),
            ("it's", "it's"),
            (r#"a "b" c"#, r#"a "b" c"#),
            (r#""a" and "b""#.trim_end_matches('"'), r#""a" and "b"#),
            ("[draft] photos", "[draft] photos"),
            ("a # b", "a # b"),
            ("~/x", "~/x"),
        ] {
            let document =
                parse("", &[&format!("data.train={typed}")]).unwrap_or_else(|error| panic!("{typed}: {error}"));
            assert_eq!(document.node("data.train").and_then(Node::text), Some(expected), "{typed}");
        }
        for (typed, words) in [
            (r#""C:\new""#, r"data.train: in double quotes `\n` is an escape of TOML; leave out the quotes"),
            (r#"["a", "C:\temp"]"#, r"`\t` is an escape"),
            (r#""C:\users""#, "data.train must be valid TOML or plain text: "),
            ("[0.9 0.95]", "data.train must be valid TOML or plain text: "),
            ("{ val: 0.1 }", "put text into quotes, got { val: 0.1 }"),
        ] {
            let error = parse("", &[&format!("data.train={typed}")]).expect_err(typed).to_string();
            assert!(error.starts_with(&format!("--set data.train={typed}: ")), "{error}");
            assert!(error.contains(words) && error.ends_with(typed), "{typed}: {words:?} is missing in: {error}");
        }
    }

    #[test]
    fn the_command_line_wins_over_keys_that_exclude_its_own() {
        let file = "[data]\ntrain = \"a\"\nvalidation = \"b\"\nvalidation_options = { part = \"val\" }\n";
        let document = parse(file, &["data.split.val=0.2"]).expect("applied");
        assert_eq!(
            document.notes,
            [
                "data.validation (c.toml:3) is replaced by --set data.split.val=0.2",
                "data.validation_options (c.toml:4) is replaced by --set data.split.val=0.2",
            ]
        );
        assert!(document.node("data.validation").is_none() && document.node("data.train").is_some());
        for (file, set, note) in [
            ("data.split = \"given\"\n", "data.split.val=0.2", "data.split (c.toml:1) is replaced"),
            ("[data.split]\nval = 0.1\n", "data.validation=c", "data.split (c.toml:1) is replaced"),
            ("[data.split]\nfile = \"s\"\n", "data.split.val=0.1", "data.split.file (c.toml:2) is replaced"),
            (
                "[data.synth]\nseed = 1\n",
                "data.train=photos",
                "data.synth (c.toml:1) is replaced by --set data.train=photos",
            ),
            ("model.sizes.depth = 2\n", "model.variant=vit_b", "model.sizes (c.toml:1) is replaced"),
        ] {
            let document = parse(file, &[set]).expect("applied");
            assert!(document.notes.len() == 1 && document.notes[0].contains(note), "{set}: {:?}", document.notes);
        }
        // The same key, or another of the same section, replaces nothing else; two options that exclude each other stay.
        for (file, sets) in [
            ("data.split.val = 0.1\n", &["data.split.seed=3"][..]),
            ("data.validation = \"a\"\n", &["data.validation=none"]),
            ("", &["data.validation=a", "data.split=given"]),
        ] {
            let document = parse(file, sets).expect("applied");
            assert!(document.notes.is_empty(), "{sets:?}: {:?}", document.notes);
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let error = Document::load(Path::new("/nowhere/c.toml"), &[]).expect_err("rejected");
        assert!(
            error.to_string().starts_with("/nowhere/c.toml: must be a readable TOML file: No such file"),
            "{error}"
        );
    }
}
