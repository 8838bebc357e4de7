//! The reference page of the documentation: every field, in Markdown.

use std::fmt::Write as _;

use crate::spec::convert;
use crate::spec::schema::{self, Condition, Entry, Leaf, Limit, Row, Upstream};

const HEAD: &str = "\
# Every field of a spec

<!-- Written by `mae spec reference`. Do not edit: change mae-cli/src/spec/schema/table.rs and write it anew. -->

A spec is a YAML file of sections and fields. On the command line a field is its path: `train.optim.lr=1e-4`. A field that
nobody sets has its default; `mae default_specs results_dir=FOLDER` writes them all into a file, and
`mae spec show --resolved -e spec.yaml` shows what a run would use.

The last column says how the field stands to TAO:

- *TAO*: TAO uses it, and so does `mae`.
- *works here*: TAO accepts it and ignores it. Set, it takes effect here; unset, or under `compat: tao`, the result is TAO's.
- *no effect*: accepted so that TAO's specs load.
- *addition*: TAO does not have it.

Numbers in TAO's own schema that contradict its programs (a default batch of 1, one class) are in the files that
`mae schema` writes; here stands what counts.
";

/// The page.
pub fn reference() -> String {
    let mut out = String::from(HEAD);
    let (sections, top): (Vec<&Row>, Vec<&Row>) =
        schema::root().iter().partition(|row| matches!(row.entry, Entry::Section(_)));
    out.push_str("\n## At the top\n");
    table("", &top, &mut out);
    for row in sections {
        section("", row, &mut out);
    }
    out
}

fn section(prefix: &str, row: &Row, out: &mut String) {
    let Entry::Section(rows) = &row.entry else { return };
    let path = if prefix.is_empty() { row.name.to_owned() } else { format!("{prefix}.{}", row.name) };
    let _ = write!(out, "\n## {path}\n\n{}\n", row.help());
    let fields: Vec<&Row> = rows.iter().filter(|row| matches!(row.entry, Entry::Leaf(_))).collect();
    table(&path, &fields, out);
    for row in rows.iter().filter(|row| matches!(row.entry, Entry::Section(_))) {
        section(&path, row, out);
    }
}

fn table(prefix: &str, rows: &[&Row], out: &mut String) {
    out.push_str("\n| field | value | default | meaning | |\n| --- | --- | --- | --- | --- |\n");
    for row in rows {
        let Entry::Leaf(leaf) = &row.entry else { continue };
        let path = if prefix.is_empty() { row.name.to_owned() } else { format!("{prefix}.{}", row.name) };
        let cells = [format!("`{path}`"), value(leaf), default(leaf), row.help(), standing(leaf)];
        let cells: Vec<_> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        let _ = writeln!(out, "| {} |", cells.join(" | "));
    }
}

/// What the field takes, with its bounds.
fn value(leaf: &Leaf) -> String {
    let options: Vec<_> =
        leaf.options.iter().chain(leaf.more_options).map(|option| format!("`{option}`")).collect();
    if !options.is_empty() {
        return options.join(", ");
    }
    let mut text = convert::expected(leaf);
    let range = match (leaf.limit, leaf.min, leaf.max.filter(|max| max.is_finite())) {
        (Some(Limit::Between(low, high)), ..) | (None, Some(low), Some(high)) => {
            Some(format!("{low} to {high}"))
        }
        (Some(Limit::Within(low, high)), ..) => Some(format!("between {low} and {high}")),
        (Some(Limit::Above(low)), _, Some(high)) => Some(format!("more than {low}, at most {high}")),
        (Some(Limit::Above(low)), ..) => Some(format!("more than {low}")),
        (Some(Limit::AtLeast(low)), ..) | (_, Some(low), _) => Some(format!("at least {low}")),
        (Some(Limit::Length(length)), ..) => Some(format!("{length} of them")),
        (None, None, Some(high)) => Some(format!("at most {high}")),
        (None, None, None) => match leaf.condition {
            Some(Condition::Above(low)) => Some(format!("more than {low}")),
            Some(Condition::AtLeast(low)) => Some(format!("at least {low}")),
            None => None,
        },
    };
    if let Some(range) = range {
        text.push_str(", ");
        text.push_str(&range);
    }
    text
}

fn default(leaf: &Leaf) -> String {
    match convert::default_text(leaf).as_str() {
        text if text.starts_with('(') => text.trim_matches(['(', ')']).to_owned(),
        text => format!("`{text}`"),
    }
}

fn standing(leaf: &Leaf) -> String {
    match leaf.upstream {
        Upstream::Honoured => "TAO".to_owned(),
        Upstream::IgnoredHonouredHere(effect) => format!("works here: {effect}"),
        Upstream::Unused => "no effect".to_owned(),
        Upstream::Extension => "addition".to_owned(),
    }
}
