//! Overrides with several values, for `--multirun`: one list of overrides a run.
//!
//! `key=1,2` and `key=choice(1,2)` are two values, `key=range(1,4)` is 1, 2, 3. Several such overrides give every
//! combination, the last one changing fastest, as Hydra's basic sweeper does.

use super::scanner::{Scanner, sweep_error};
use super::{error, parse};
use crate::spec::error::{Kind, Origin, Result};
use crate::spec::python::float_repr;
use std::sync::Arc;

/// Most runs of one command.
pub const MAX_RUNS: usize = 1000;

/// The overrides of each run.
///
/// # Errors
/// An override does not follow the grammar, or asks for a sweep that is not known.
pub fn expand<S: AsRef<str>>(texts: &[S]) -> Result<Vec<Vec<String>>> {
    let mut runs: Vec<Vec<String>> = vec![Vec::new()];
    for (index, text) in texts.iter().enumerate() {
        let values = values(text.as_ref(), index + 1)?;
        if runs.len().saturating_mul(values.len()) > MAX_RUNS {
            return Err(crate::spec::error::Error::new(
                Kind::TooLarge,
                format!("the sweep has more than {MAX_RUNS} runs"),
            )
            .remedy("give fewer values"));
        }
        runs = runs
            .into_iter()
            .flat_map(|run| {
                values.iter().map(move |value| [run.as_slice(), std::slice::from_ref(value)].concat())
            })
            .collect();
    }
    Ok(runs)
}

/// One override for each of its values.
fn values(text: &str, number: usize) -> Result<Vec<String>> {
    match parse(text, number) {
        Ok(_) => return Ok(vec![text.to_owned()]),
        Err(error) if error.kind() != Kind::SweepWithoutMultirun => return Err(error),
        Err(_) => {}
    }
    let origin = Origin::Override { number, text: Arc::from(text) };
    let (key, elements) = Scanner::new(text, origin.clone()).elements()?;
    let elements = match elements.as_slice() {
        [only] => function(only, &origin)?,
        _ => elements,
    };
    let runs: Vec<String> = elements.iter().map(|element| format!("{key}={element}")).collect();
    for run in &runs {
        parse(run, number)?;
    }
    Ok(runs)
}

/// The values of `choice(...)` and `range(...)`, as written.
fn function(text: &str, origin: &Origin) -> Result<Vec<String>> {
    let call = text.strip_suffix(')').and_then(|text| text.split_once('('));
    match call.map(|(name, inside)| (name.trim(), inside)) {
        Some(("choice", inside)) => {
            let list = format!("k={inside}");
            Ok(Scanner::new(&list, origin.clone()).elements()?.1)
        }
        Some(("range", inside)) => range(inside),
        Some((name @ ("int" | "float" | "str" | "bool"), inside)) => {
            let list = format!("k={inside}");
            let values = Scanner::new(&list, origin.clone()).elements()?.1;
            Ok(values.iter().map(|value| format!("{name}({value})")).collect())
        }
        _ => Err(sweep_error(&format!("`{text}` is no sweep that is known here"))
            .remedy("list the values: key=1,2,3; choice(1,2,3) and range(1,4) work too")),
    }
}

/// `range(stop)`, `range(start, stop)`, `range(start, stop, step)`: integers, or numbers when one of them is no integer.
fn range(inside: &str) -> Result<Vec<String>> {
    let wrong = || error(format!("`range({inside})` takes one to three numbers, the last not 0"));
    let numbers: Option<Vec<f64>> = inside
        .split(',')
        .map(|part| part.trim().parse().ok().filter(|number: &f64| number.is_finite()))
        .collect();
    let whole = !inside.contains(['.', 'e', 'E']);
    let (start, stop, step) = match numbers.as_deref() {
        Some([stop]) => (0.0, *stop, 1.0),
        Some([start, stop]) => (*start, *stop, 1.0),
        Some([start, stop, step]) if *step != 0.0 => (*start, *stop, *step),
        _ => return Err(wrong()),
    };
    let count = ((stop - start) / step).ceil().clamp(0.0, (MAX_RUNS + 1) as f64) as usize;
    if count == 0 {
        return Err(error(format!("`range({inside})` is empty")));
    }
    let value = |index: usize| start + step * index as f64;
    Ok((0..count)
        .map(value)
        .map(|value| if whole { format!("{value}") } else { float_repr(value) })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_in_order() {
        let runs = expand(&["a=1,2", "b=x", "c='p,q',r"]).unwrap();
        let expected = [
            ["a=1", "b=x", "c='p,q'"],
            ["a=1", "b=x", "c=r"],
            ["a=2", "b=x", "c='p,q'"],
            ["a=2", "b=x", "c=r"],
        ];
        assert_eq!(runs, expected);
        assert_eq!(expand(&[] as &[&str]).unwrap(), [[] as [&str; 0]]);
    }

    #[test]
    fn functions() {
        for (text, expected) in [
            ("a=choice(1, [2,3])", &["a=1", "a=[2,3]"][..]),
            ("a=range(1,4)", &["a=1", "a=2", "a=3"]),
            ("a=range(0,1,0.5)", &["a=0.0", "a=0.5"]),
            ("a=range(3,0,-2)", &["a=3", "a=1"]),
            ("a=int(1.5,2.5)", &["a=int(1.5)", "a=int(2.5)"]),
            ("+a=[1,2]", &["+a=[1,2]"]),
            ("~a", &["~a"]),
        ] {
            let runs: Vec<String> = expand(&[text]).unwrap().into_iter().flatten().collect();
            assert_eq!(runs, expected, "{text}");
        }
        for wrong in ["a=interval(0,1)", "a=range(1,1)", "a=range(1,2,0)", "a=1,", "a=glob(*)"] {
            assert!(expand(&[wrong]).is_err(), "{wrong}");
        }
        assert_eq!(expand(&["a=range(100)", "b=range(11)"]).unwrap_err().kind(), Kind::TooLarge);
    }
}
