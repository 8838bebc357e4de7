//! What a row of the table says about its field.

/// A default as a constant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Literal {
    /// `null`.
    Null,
    /// A boolean.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A decimal number.
    Float(f64),
    /// A text; `???` marks a value that must be given before it is read.
    Text(&'static str),
    /// A list of integers.
    Ints(&'static [i64]),
    /// A list of decimal numbers.
    Floats(&'static [f64]),
    /// A list of texts.
    Texts(&'static [&'static str]),
}

/// The type of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `true` or `false`.
    Bool,
    /// An integer.
    Int,
    /// A number.
    Float,
    /// A text.
    Text,
    /// A list whose elements have one type.
    List(&'static Shape),
    /// Two numbers. A single number passes conversion, as upstream types the field so, and is refused by the checks.
    Pair,
}

/// What TAO does with a field, and what we do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// TAO uses it, and so do we.
    Honoured,
    /// TAO ignores it; set explicitly it works here. The text says what it does, for the note at the start of a run.
    IgnoredHonouredHere(&'static str),
    /// Neither TAO's PyTorch actions nor we use it (telemetry, TensorRT, W&B). Accepted, so that specs load.
    Unused,
    /// Only we know it.
    Extension,
}

/// A condition that TAO's schema states as text, e.g. `> 0.0`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Condition {
    /// Greater than.
    Above(f64),
    /// Greater than or equal to.
    AtLeast(f64),
}

/// A rule of ours that TAO's schema does not state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// Inside the closed interval.
    Between(f64, f64),
    /// Strictly inside the interval.
    Within(f64, f64),
    /// At least.
    AtLeast(f64),
    /// Greater than.
    Above(f64),
    /// A list of exactly this many elements.
    Length(usize),
}

/// A field.
#[derive(Clone, Copy, Debug)]
pub struct Leaf {
    /// Its type.
    pub shape: Shape,
    /// Whether `null` is allowed.
    pub optional: bool,
    /// Its value when nobody sets it.
    pub default: Literal,
    /// TAO's `valid_min`.
    pub min: Option<f64>,
    /// TAO's `valid_max`; infinite when TAO says so.
    pub max: Option<f64>,
    /// TAO's `math_cond`.
    pub condition: Option<Condition>,
    /// TAO's `valid_options`.
    pub options: &'static [&'static str],
    /// Further options that TAO's code accepts although its schema does not list them.
    pub more_options: &'static [&'static str],
    /// Whether options are compared without case, as TAO's code does for this field.
    pub any_case: bool,
    /// Our own rule.
    pub limit: Option<Limit>,
    /// Who uses it.
    pub upstream: Upstream,
    /// TAO's AutoML flag: searched by default, disabled, or neither.
    pub automl: Option<bool>,
    /// TAO's flag for fields that its user interfaces show first.
    pub popular: bool,
    /// TAO's label of the field in user interfaces; empty when it has none.
    pub title: &'static str,
    /// The default that TAO's packaged schema and templates give, where it is another than the one that counts.
    pub packaged: Option<Literal>,
    /// What a field takes when it is unset, where that is not its default but follows from others; else empty.
    pub derived: &'static str,
    /// Whether a list of texts is taken too, and joined by commas.
    pub joins_lists: bool,
    /// A value that is right, shown in messages; empty means the default is shown.
    pub example: &'static str,
}

/// A field or a section.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::large_enum_variant, reason = "the rows are constants, and a table is read in place")]
pub enum Entry {
    /// A field.
    Leaf(Leaf),
    /// A section with its rows.
    Section(&'static [Row]),
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Name inside its section.
    pub name: &'static str,
    /// What it is for, as help text; lines are trimmed by [`Row::help`].
    pub doc: &'static [&'static str],
    /// What it holds.
    pub entry: Entry,
}

impl Row {
    /// The help text in one line.
    pub fn help(&self) -> String {
        self.doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
    }
}

impl Leaf {
    const fn of(shape: Shape, default: Literal) -> Self {
        Self {
            shape,
            optional: false,
            default,
            min: None,
            max: None,
            condition: None,
            options: &[],
            more_options: &[],
            any_case: false,
            limit: None,
            upstream: Upstream::Honoured,
            automl: None,
            popular: false,
            title: "",
            packaged: None,
            derived: "",
            joins_lists: false,
            example: "",
        }
    }

    pub(super) const fn bool(default: bool) -> Self {
        Self::of(Shape::Bool, Literal::Bool(default))
    }

    pub(super) const fn int(default: i64) -> Self {
        Self::of(Shape::Int, Literal::Int(default))
    }

    pub(super) const fn float(default: f64) -> Self {
        Self::of(Shape::Float, Literal::Float(default))
    }

    pub(super) const fn text(default: &'static str) -> Self {
        Self::of(Shape::Text, Literal::Text(default))
    }

    pub(super) const fn optional_text(default: Literal) -> Self {
        Self::of(Shape::Text, default).or_null()
    }

    pub(super) const fn ints(default: &'static [i64]) -> Self {
        Self::of(Shape::List(&Shape::Int), Literal::Ints(default)).automl(false)
    }

    pub(super) const fn floats(default: Literal) -> Self {
        Self::of(Shape::List(&Shape::Float), default).automl(false)
    }

    pub(super) const fn texts(default: &'static [&'static str]) -> Self {
        Self::of(Shape::List(&Shape::Text), Literal::Texts(default)).automl(false)
    }

    pub(super) const fn optional_pair() -> Self {
        Self::of(Shape::Pair, Literal::Null).or_null()
    }

    pub(super) const fn or_null(mut self) -> Self {
        self.optional = true;
        self
    }

    pub(super) const fn optional_float() -> Self {
        Self::of(Shape::Float, Literal::Null).or_null()
    }

    pub(super) const fn min(mut self, min: f64) -> Self {
        self.min = Some(min);
        self
    }

    pub(super) const fn max(mut self, max: f64) -> Self {
        self.max = Some(max);
        self
    }

    pub(super) const fn when(mut self, condition: Condition) -> Self {
        self.condition = Some(condition);
        self
    }

    pub(super) const fn options(mut self, options: &'static [&'static str]) -> Self {
        self.options = options;
        self
    }

    pub(super) const fn or_options(mut self, options: &'static [&'static str]) -> Self {
        self.more_options = options;
        self
    }

    pub(super) const fn any_case(mut self) -> Self {
        self.any_case = true;
        self
    }

    pub(super) const fn limit(mut self, limit: Limit) -> Self {
        self.limit = Some(limit);
        self
    }

    pub(super) const fn honoured_here(mut self, effect: &'static str) -> Self {
        self.upstream = Upstream::IgnoredHonouredHere(effect);
        self
    }

    pub(super) const fn unused(mut self) -> Self {
        self.upstream = Upstream::Unused;
        self
    }

    pub(super) const fn extension(mut self) -> Self {
        self.upstream = Upstream::Extension;
        self
    }

    pub(super) const fn automl(mut self, searched: bool) -> Self {
        self.automl = Some(searched);
        self
    }

    pub(super) const fn popular(mut self) -> Self {
        self.popular = true;
        self
    }

    pub(super) const fn title(mut self, title: &'static str) -> Self {
        self.title = title;
        self
    }

    pub(super) const fn packaged(mut self, default: Literal) -> Self {
        self.packaged = Some(default);
        self
    }

    pub(super) const fn derived(mut self, from: &'static str) -> Self {
        self.derived = from;
        self
    }

    pub(super) const fn joins_lists(mut self) -> Self {
        self.joins_lists = true;
        self
    }

    pub(super) const fn example(mut self, example: &'static str) -> Self {
        self.example = example;
        self
    }
}
