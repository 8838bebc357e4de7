//! `${...}` inside texts, as OmegaConf 2.3 reads it.
//!
//! `${a.b}`, `${.sibling}`, `${..parent.key}`, `${list[0]}` and `${a.${b}}` refer to other values; `${oc.env:HOME}`,
//! `${oc.env:VAR,default}`, `oc.decode`, `oc.select`, `oc.create` and `oc.dict.keys` compute one. `\${` is text.
//!
//! Upstream registers Python's `eval` as `${eval:...}`. Here it is a closed arithmetic ([`arithmetic`]): numbers and
//! operators, nothing that can name, call or read anything.

pub mod arithmetic;
mod parser;
mod resolve;

pub use parser::validate;
pub use resolve::{Context, Resolver};

/// One piece of a text.
#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    /// `${..a[b].c}`: number of leading dots, then names.
    Node {
        dots: usize,
        names: Vec<Vec<Part>>,
    },
    /// `${name:argument, ...}`
    Call {
        name: Vec<Part>,
        arguments: Vec<Element>,
    },
}

/// An argument of a resolver.
#[derive(Clone, Debug, PartialEq)]
enum Element {
    /// Unquoted: a lone interpolation keeps its type, plain text is a number, `true`, `null` or text.
    Unquoted(Vec<Part>),
    Quoted(Vec<Part>),
    List(Vec<Element>),
    Map(Vec<(String, Element)>),
}
