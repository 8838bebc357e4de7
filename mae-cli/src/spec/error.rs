//! What can be wrong with a spec, said in one shape: key, value, where it came from, what was expected, the remedy.

use std::fmt;
use std::sync::Arc;

/// Result of everything in [`crate::spec`].
pub type Result<T> = std::result::Result<T, Error>;

/// Where a value came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// The schema's default: nobody wrote it.
    #[default]
    Default,
    /// A place in a spec file. Lines and columns count from 1, columns in characters.
    File {
        /// The file as the user named it.
        file: Arc<str>,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
    },
    /// An override on the command line.
    Override {
        /// Which one, from 1.
        number: usize,
        /// Its text, e.g. `train.optim.lr=1e-4`.
        text: Arc<str>,
    },
    /// The environment.
    Variable {
        /// The variable, e.g. `WORLD_SIZE`.
        name: &'static str,
    },
    /// A checkpoint: nobody wrote the value, and the model there has it.
    Checkpoint {
        /// The file.
        file: Arc<str>,
    },
}

impl Origin {
    /// Whether somebody wrote the value for this run.
    pub fn is_explicit(&self) -> bool {
        !matches!(self, Self::Default | Self::Checkpoint { .. })
    }

    /// Line and column in the spec file, both from 1.
    pub fn line_column(&self) -> Option<(usize, usize)> {
        match self {
            Self::File { line, column, .. } => Some((*line, *column)),
            _ => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the default"),
            Self::File { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Self::Override { number, .. } => write!(f, "override {number} on the command line"),
            Self::Variable { name } => write!(f, "environment variable {name}"),
            Self::Checkpoint { file } => write!(f, "of the checkpoint {file}"),
        }
    }
}

/// The kind of a spec error; [`Kind::name`] is its stable name, shown nowhere but in tests and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A value has the wrong type for its field.
    TypeMismatch,
    /// A mapping where a list is expected, or the other way round.
    StructureMismatch,
    /// A key that the schema does not know.
    UnknownKey,
    /// Text that is not YAML.
    YamlSyntax,
    /// YAML whose meaning is not accepted (foreign tags, keys that are not text).
    YamlConstructor,
    /// A mapping key of a type that a spec cannot have.
    YamlBadKey,
    /// A key written twice in one mapping.
    YamlDuplicateKey,
    /// The top level of the spec is not a mapping.
    SpecNotAMapping,
    /// The file is not UTF-8.
    Encoding,
    /// The spec, or a file that it names, does not exist or cannot be read.
    ConfigNotFound,
    /// The `defaults:` list of the spec is malformed.
    DefaultsList,
    /// `${...}` that cannot be parsed.
    Interpolation,
    /// `${...}` that parses but cannot be resolved.
    ResolveError,
    /// An override that cannot be parsed.
    OverrideParse,
    /// An override with several values, as for a sweep.
    SweepWithoutMultirun,
    /// An index outside a list.
    ListIndex,
    /// `~key` where nothing can be deleted.
    DeleteUnsupported,
    /// `~key` of a key that is absent or has another value.
    DeleteFailed,
    /// `+key` of a key that exists.
    AppendExisting,
    /// A number outside the bounds of its field.
    OutOfBounds,
    /// A text that is not among the options of its field.
    NotAnOption,
    /// A field that this action needs and that is not set.
    Required,
    /// Fields that contradict each other, or the action.
    Contradiction,
    /// Too much of something: bytes, nesting, nodes.
    TooLarge,
    /// A command line that cannot be understood.
    Usage,
}

impl Kind {
    /// Stable snake_case name.
    pub fn name(self) -> &'static str {
        match self {
            Self::TypeMismatch => "type_mismatch",
            Self::StructureMismatch => "structure_mismatch",
            Self::UnknownKey => "unknown_key",
            Self::YamlSyntax => "yaml_syntax",
            Self::YamlConstructor => "yaml_constructor",
            Self::YamlBadKey => "yaml_bad_key",
            Self::YamlDuplicateKey => "yaml_duplicate_key",
            Self::SpecNotAMapping => "spec_not_a_mapping",
            Self::Encoding => "encoding",
            Self::ConfigNotFound => "config_not_found",
            Self::DefaultsList => "defaults_list",
            Self::Interpolation => "interpolation",
            Self::ResolveError => "resolve_error",
            Self::OverrideParse => "override_parse",
            Self::SweepWithoutMultirun => "sweep_without_multirun",
            Self::ListIndex => "list_index",
            Self::DeleteUnsupported => "delete_unsupported",
            Self::DeleteFailed => "delete_failed",
            Self::AppendExisting => "append_existing",
            Self::OutOfBounds => "out_of_bounds",
            Self::NotAnOption => "not_an_option",
            Self::Required => "required",
            Self::Contradiction => "contradiction",
            Self::TooLarge => "too_large",
            Self::Usage => "usage",
        }
    }
}

/// A spec error. Its text is `key = value (where): what is wrong`, then a line with the remedy.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", Text(.0))]
pub struct Error(Box<Detail>);

#[derive(Clone, Debug)]
struct Detail {
    kind: Kind,
    key: Option<String>,
    value: Option<String>,
    origin: Origin,
    problem: String,
    remedy: Option<String>,
}

impl Error {
    /// An error that says what is wrong; the other parts are added with the methods below.
    pub fn new(kind: Kind, problem: impl Into<String>) -> Self {
        Self(Box::new(Detail {
            kind,
            key: None,
            value: None,
            origin: Origin::Default,
            problem: problem.into(),
            remedy: None,
        }))
    }

    /// Names the full dotted path of the field.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.0.key = Some(key.into());
        self
    }

    /// Shows the value as found, shortened when it is long.
    pub fn value(mut self, value: impl Into<String>) -> Self {
        let value = value.into();
        self.0.value = Some(if value.chars().count() > 80 {
            value.chars().take(77).chain("...".chars()).collect()
        } else {
            value
        });
        self
    }

    /// Shows this text unless a value or a key is named already.
    pub fn or_value(self, value: impl Into<String>) -> Self {
        if self.0.value.is_some() || self.0.key.is_some() { self } else { self.value(value) }
    }

    /// Says where the value came from.
    pub fn at(mut self, origin: &Origin) -> Self {
        self.0.origin = origin.clone();
        self
    }

    /// Says what to do.
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.0.remedy = Some(remedy.into());
        self
    }

    /// Which kind of error.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Full dotted path of the field, list elements as `a.b[1]`.
    pub fn path(&self) -> Option<&str> {
        self.0.key.as_deref()
    }

    /// Where the value came from.
    pub fn origin(&self) -> &Origin {
        &self.0.origin
    }

    /// What is wrong, without the key, the value and the remedy.
    pub fn problem(&self) -> &str {
        &self.0.problem
    }

    /// What to do, when there is something to say.
    pub fn help(&self) -> Option<&str> {
        self.0.remedy.as_deref()
    }
}

struct Text<'a>(&'a Detail);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Detail { key, value, origin, problem, remedy, .. } = self.0;
        match (key, value) {
            (Some(key), Some(value)) => write!(f, "{key} = {value}")?,
            (Some(key), None) => f.write_str(key)?,
            (None, Some(value)) => f.write_str(value)?,
            (None, None) => {}
        }
        let named = key.is_some() || value.is_some();
        match (named, origin.is_explicit()) {
            (true, true) => write!(f, " ({origin}): ")?,
            (false, true) => write!(f, "{origin}: ")?,
            (true, false) => f.write_str(": ")?,
            (false, false) => {}
        }
        f.write_str(problem)?;
        if let Some(remedy) = remedy {
            write!(f, "\n  help: {remedy}")?;
        }
        Ok(())
    }
}
