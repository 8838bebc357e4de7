//! The closed arithmetic of `${eval:'...'}`.
//!
//! Integers, decimal numbers, `+ - * / // % **`, parentheses and `min max abs round int float`, with Python's meaning:
//! `/` gives a decimal number, `//` and `%` round towards minus infinity. Nothing else parses.

use crate::spec::error::{Error, Kind, Result};
use crate::spec::python;
use crate::spec::value::Value;

/// Longest expression in characters.
const MAX_LENGTH: usize = 1000;
/// Deepest nesting.
const MAX_DEPTH: usize = 64;

/// A number.
#[derive(Clone, Copy, Debug)]
enum Number {
    Int(i128),
    Float(f64),
}

/// Computes an expression such as `1234 // 100`.
///
/// # Errors
/// Anything but arithmetic, a division by zero, or a result that does not fit.
pub fn evaluate(text: &str) -> Result<Value> {
    if text.len() > MAX_LENGTH {
        return Err(refuse(text, "the expression is too long"));
    }
    let mut parser = Parser { text, at: 0, depth: 0 };
    let number = parser.sum()?;
    parser.blanks();
    if parser.at < text.len() {
        return Err(refuse(
            text,
            "only arithmetic is computed: numbers, + - * / // % **, parentheses, min, max, abs, round, int, float",
        ));
    }
    Ok(match number {
        Number::Int(value) => Value::Int(value),
        Number::Float(value) => Value::Float(value),
    })
}

fn refuse(text: &str, problem: &str) -> Error {
    Error::new(Kind::ResolveError, problem)
        .value(format!("${{eval:'{text}'}}"))
        .remedy("compute the value yourself and write the number; nothing is ever executed")
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn sum(&mut self) -> Result<Number> {
        if self.depth >= MAX_DEPTH {
            return Err(refuse(self.text, "the expression is nested too deeply"));
        }
        self.depth += 1;
        let mut left = self.product()?;
        loop {
            left = if self.eat("+") {
                let right = self.product()?;
                self.apply(left, right, i128::checked_add, |a, b| a + b)?
            } else if self.eat("-") {
                let right = self.product()?;
                self.apply(left, right, i128::checked_sub, |a, b| a - b)?
            } else {
                self.depth -= 1;
                return Ok(left);
            };
        }
    }

    fn product(&mut self) -> Result<Number> {
        let mut left = self.sign()?;
        loop {
            left = if self.eat("//") {
                let right = self.nonzero()?;
                self.apply(left, right, floor_div, |a, b| (a / b).floor())?
            } else if self.eat("/") {
                let right = self.nonzero()?;
                Number::Float(float(left) / float(right))
            } else if self.eat("%") {
                let right = self.nonzero()?;
                self.apply(
                    left,
                    right,
                    |a, b| a.checked_sub(floor_div(a, b)?.checked_mul(b)?),
                    |a, b| a - b * (a / b).floor(),
                )?
            } else if !self.next_is("**") && self.eat("*") {
                let right = self.sign()?;
                self.apply(left, right, i128::checked_mul, |a, b| a * b)?
            } else {
                return Ok(left);
            };
        }
    }

    fn nonzero(&mut self) -> Result<Number> {
        let number = self.sign()?;
        if float(number) == 0.0 { Err(refuse(self.text, "division by zero")) } else { Ok(number) }
    }

    fn sign(&mut self) -> Result<Number> {
        let mut negative = false;
        loop {
            if self.eat("-") {
                negative = !negative;
            } else if !self.eat("+") {
                break;
            }
        }
        let number = self.power()?;
        Ok(match number {
            _ if !negative => number,
            Number::Int(value) => Number::Int(-value),
            Number::Float(value) => Number::Float(-value),
        })
    }

    fn power(&mut self) -> Result<Number> {
        let base = self.atom()?;
        if !self.eat("**") {
            return Ok(base);
        }
        if self.depth >= MAX_DEPTH {
            return Err(refuse(self.text, "the expression is nested too deeply"));
        }
        self.depth += 1;
        let exponent = self.sign()?;
        self.depth -= 1;
        match (base, exponent) {
            (Number::Int(base), Number::Int(exponent)) if exponent >= 0 => u32::try_from(exponent)
                .ok()
                .and_then(|exponent| base.checked_pow(exponent))
                .map(Number::Int)
                .ok_or_else(|| self.overflow()),
            (base, exponent) => Ok(Number::Float(float(base).powf(float(exponent)))),
        }
    }

    fn atom(&mut self) -> Result<Number> {
        self.blanks();
        if self.eat("(") {
            let number = self.sum()?;
            return if self.eat(")") { Ok(number) } else { Err(refuse(self.text, "`(` is not closed")) };
        }
        for name in ["min", "max", "abs", "round", "int", "float"] {
            if self.next_is(name) {
                self.at += name.len();
                return self.call(name);
            }
        }
        let rest = &self.text[self.at..];
        let mut end = 0;
        for (index, next) in rest.char_indices() {
            let exponent_sign =
                matches!(next, '+' | '-') && index > 0 && matches!(rest.as_bytes()[index - 1], b'e' | b'E');
            if next.is_ascii_digit()
                || matches!(next, '.' | '_')
                || (index > 0 && matches!(next, 'e' | 'E'))
                || exponent_sign
            {
                end = index + 1;
            } else {
                break;
            }
        }
        let literal = &rest[..end];
        let number = match python::parse_int(literal) {
            Some(value) => Some(Number::Int(value)),
            None => python::parse_float(literal).map(Number::Float),
        };
        self.at += end;
        number.ok_or_else(|| {
            refuse(self.text, "only arithmetic is computed: numbers, + - * / // % **, parentheses, min, max, abs, round, int, float")
        })
    }

    fn call(&mut self, name: &str) -> Result<Number> {
        if !self.eat("(") {
            return Err(refuse(self.text, "a function needs parentheses"));
        }
        let mut arguments = vec![self.sum()?];
        while self.eat(",") {
            arguments.push(self.sum()?);
        }
        if !self.eat(")") {
            return Err(refuse(self.text, "`(` is not closed"));
        }
        let whole = |value: f64| {
            if value.abs() < 1e18 { Ok(Number::Int(value as i128)) } else { Err(self.overflow()) }
        };
        let pick = |wanted: std::cmp::Ordering| {
            arguments
                .iter()
                .copied()
                .reduce(|best, next| if float(next).total_cmp(&float(best)) == wanted { next } else { best })
                .ok_or_else(|| self.overflow())
        };
        match (name, arguments.as_slice()) {
            ("min", _) => pick(std::cmp::Ordering::Less),
            ("max", _) => pick(std::cmp::Ordering::Greater),
            ("abs", [Number::Int(value)]) => Ok(Number::Int(value.abs())),
            ("abs", [Number::Float(value)]) => Ok(Number::Float(value.abs())),
            ("round" | "int", [Number::Int(value)]) => Ok(Number::Int(*value)),
            ("round", [Number::Float(value)]) => whole(value.round_ties_even()),
            ("int", [Number::Float(value)]) => whole(value.trunc()),
            ("float", [value]) => Ok(Number::Float(float(*value))),
            _ => Err(refuse(self.text, &format!("`{name}` takes one number"))),
        }
    }

    fn apply(
        &self,
        left: Number,
        right: Number,
        ints: impl Fn(i128, i128) -> Option<i128>,
        floats: impl Fn(f64, f64) -> f64,
    ) -> Result<Number> {
        match (left, right) {
            (Number::Int(left), Number::Int(right)) => {
                ints(left, right).map(Number::Int).ok_or_else(|| self.overflow())
            }
            _ => Ok(Number::Float(floats(float(left), float(right)))),
        }
    }

    fn overflow(&self) -> Error {
        refuse(self.text, "the result is too large")
    }

    fn blanks(&mut self) {
        self.at += self.text[self.at..].len() - self.text[self.at..].trim_start().len();
    }

    fn next_is(&mut self, wanted: &str) -> bool {
        self.blanks();
        self.text[self.at..].starts_with(wanted)
    }

    fn eat(&mut self, wanted: &str) -> bool {
        let found = self.next_is(wanted);
        if found {
            self.at += wanted.len();
        }
        found
    }
}

fn float(number: Number) -> f64 {
    match number {
        Number::Int(value) => value as f64,
        Number::Float(value) => value,
    }
}

fn floor_div(left: i128, right: i128) -> Option<i128> {
    let quotient = left.checked_div(right)?;
    Some(if left % right != 0 && (left < 0) != (right < 0) { quotient - 1 } else { quotient })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_is_pythons() {
        for (text, value) in [
            ("1+2", Value::Int(3)),
            ("1234 // 100", Value::Int(12)),
            ("-7 // 2", Value::Int(-4)),
            ("-7 % 3", Value::Int(2)),
            ("7 / 2", Value::Float(3.5)),
            ("2 ** 3 ** 2", Value::Int(512)),
            ("-2 ** 2", Value::Int(-4)),
            ("(1 + 2) * 3e-4", Value::Float(3.0 * 3e-4)),
            ("max(1, 2.5, 2)", Value::Float(2.5)),
            ("int(256 * 1.5e-4 * 1000)", Value::Int(38)),
            ("round(2.5)", Value::Int(2)),
        ] {
            assert_eq!(evaluate(text).unwrap(), value, "{text}");
        }
    }

    #[test]
    fn nothing_but_arithmetic_is_computed() {
        for text in [
            "__import__('os').sep",
            "[1]",
            "open('x')",
            "1 if 1 else 2",
            "a",
            "",
            "1/0",
            "(1",
            "9**999",
            "1;2",
        ] {
            assert_eq!(evaluate(text).unwrap_err().kind(), Kind::ResolveError, "{text}");
        }
        let deep = format!("{}1{}", "(".repeat(400), ")".repeat(400));
        assert!(evaluate(&deep).is_err());
    }
}
