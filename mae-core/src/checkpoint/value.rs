//! [`Value`]: the Python data of a checkpoint.

use super::{DType, TensorView};

/// A Python value as data. Nothing in it was ever executed.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `None`.
    None,
    /// `bool`.
    Bool(bool),
    /// `int` that fits 64 bits.
    Int(i64),
    /// Larger `int`: two's complement, least significant byte first, no redundant sign byte.
    BigInt(Vec<u8>),
    /// `float`.
    Float(f64),
    /// `str`.
    Str(String),
    /// `bytes`, `bytearray`, and Python 2 strings that are not UTF-8.
    Bytes(Vec<u8>),
    /// `list`.
    List(Vec<Value>),
    /// `tuple`.
    Tuple(Vec<Value>),
    /// `set`, in stored order.
    Set(Vec<Value>),
    /// `dict`, in insertion order.
    Dict(Vec<(Value, Value)>),
    /// `collections.OrderedDict`, in insertion order. Attributes (`_metadata`) are not kept.
    OrderedDict(Vec<(Value, Value)>),
    /// `collections.Counter`, in insertion order.
    Counter(Vec<(Value, Value)>),
    /// `torch.Tensor` or `torch.nn.Parameter`.
    Tensor(TensorView),
    /// `torch.Size`.
    Size(Vec<i64>),
    /// `torch.dtype`.
    DType(DType),
    /// `torch.device`, for example `cuda:0`.
    Device(String),
    /// `numpy.ndarray`.
    NumpyArray(TensorView),
    /// A NumPy scalar, as a 0-dimensional tensor.
    NumpyScalar(TensorView),
    /// Anything else.
    Opaque(Box<Opaque>),
}

/// An object of a class outside the allow-list: what its pickle says, as data.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Opaque {
    /// `module.name` of the class or function.
    pub class: String,
    /// Whether it is an instance (the result of a call that was not made) or the class itself.
    pub instance: bool,
    /// Arguments of the constructor.
    pub args: Vec<Value>,
    /// What `__setstate__` would have got; for plain objects the dict of attributes.
    pub state: Option<Value>,
    /// Elements appended to a list subclass.
    pub items: Vec<Value>,
    /// Items set on a dict subclass.
    pub pairs: Vec<(Value, Value)>,
}

impl Value {
    /// A `str`.
    pub fn str(text: impl Into<String>) -> Self {
        Value::Str(text.into())
    }

    /// A `dict` with `str` keys.
    pub fn dict<K: Into<String>>(items: impl IntoIterator<Item = (K, Value)>) -> Self {
        Value::Dict(items.into_iter().map(|(key, value)| (Value::str(key), value)).collect())
    }

    /// A `collections.OrderedDict` with `str` keys.
    pub fn ordered_dict<K: Into<String>>(items: impl IntoIterator<Item = (K, Value)>) -> Self {
        Value::OrderedDict(items.into_iter().map(|(key, value)| (Value::str(key), value)).collect())
    }

    /// A `list`.
    pub fn list<V: Into<Value>>(items: impl IntoIterator<Item = V>) -> Self {
        Value::List(items.into_iter().map(Into::into).collect())
    }

    /// The value under a `str` key of any kind of dict, or an attribute of a plain object
    /// (`argparse.Namespace`).
    pub fn get(&self, key: &str) -> Option<&Value> {
        let items = match self {
            Value::Opaque(object) => object.state.as_ref()?.as_dict()?,
            other => other.as_dict()?,
        };
        items.iter().find(|(name, _)| name.as_str() == Some(key)).map(|(_, value)| value)
    }

    /// Follows `str` keys downwards.
    pub fn get_path(&self, keys: &[&str]) -> Option<&Value> {
        keys.iter().try_fold(self, |value, key| value.get(key))
    }

    /// The items of any kind of dict.
    pub fn as_dict(&self) -> Option<&[(Value, Value)]> {
        match self {
            Value::Dict(items) | Value::OrderedDict(items) | Value::Counter(items) => Some(items),
            _ => None,
        }
    }

    /// The elements of a `list` or `tuple`.
    pub fn as_slice(&self) -> Option<&[Value]> {
        match self {
            Value::List(items) | Value::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// A `str`.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }

    /// A `bool`.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// An `int` that fits 64 bits (not a `bool`).
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Value::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// A `float` or `int`, a NumPy scalar, or a tensor with one element.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Float(value) => Some(*value),
            Value::Int(value) => Some(*value as f64),
            Value::NumpyScalar(view) | Value::Tensor(view) if view.numel() == 1 => {
                view.to_f64_vec().ok()?.first().copied()
            }
            _ => None,
        }
    }

    /// A tensor.
    pub fn as_tensor(&self) -> Option<&TensorView> {
        match self {
            Value::Tensor(view) => Some(view),
            _ => None,
        }
    }

    /// Every tensor and NumPy array in the structure with the keys that lead to it, in stored order; the attributes of
    /// opaque objects count as keys.
    pub fn tensors(&self) -> Vec<(Vec<String>, &TensorView)> {
        let mut found = Vec::new();
        self.collect_tensors(&mut Vec::new(), &mut found);
        found
    }

    fn collect_tensors<'a>(&'a self, path: &mut Vec<String>, found: &mut Vec<(Vec<String>, &'a TensorView)>) {
        if let Value::Tensor(view) | Value::NumpyArray(view) = self {
            found.push((path.clone(), view));
            return;
        }
        for (key, value) in self.children() {
            path.push(key);
            value.collect_tensors(path, found);
            path.pop();
        }
    }

    /// The values directly within this one, with their keys as text: dict keys, indices, attributes.
    pub fn children(&self) -> Vec<(String, &Value)> {
        fn indexed(items: &[Value]) -> impl Iterator<Item = (String, &Value)> {
            items.iter().enumerate().map(|(index, value)| (index.to_string(), value))
        }
        let keyed = |pairs: &'_ [(Value, Value)]| -> Vec<String> {
            pairs.iter().map(|(key, _)| key.key_text()).collect()
        };
        match self {
            Value::Dict(pairs) | Value::OrderedDict(pairs) | Value::Counter(pairs) => {
                keyed(pairs).into_iter().zip(pairs.iter().map(|(_, value)| value)).collect()
            }
            Value::List(items) | Value::Tuple(items) | Value::Set(items) => indexed(items).collect(),
            Value::Opaque(object) => {
                let arguments =
                    object.args.iter().enumerate().map(|(index, value)| (format!("args[{index}]"), value));
                let state = match &object.state {
                    Some(state) if state.as_dict().is_some() => state.children(),
                    Some(state) => vec![("state".to_owned(), state)],
                    None => Vec::new(),
                };
                let pairs = keyed(&object.pairs).into_iter().zip(object.pairs.iter().map(|(_, value)| value));
                arguments.chain(state).chain(indexed(&object.items)).chain(pairs).collect()
            }
            _ => Vec::new(),
        }
    }

    /// A dict key as a part of a path.
    fn key_text(&self) -> String {
        match self {
            Value::Str(text) => text.clone(),
            Value::Int(number) => number.to_string(),
            Value::Bool(value) => if *value { "True" } else { "False" }.to_owned(),
            Value::None => "None".to_owned(),
            Value::Tuple(items) => {
                let items: Vec<String> = items.iter().map(Value::key_text).collect();
                format!("({})", items.join(", "))
            }
            other => other.type_name().to_owned(),
        }
    }

    /// The same structure with a copy of what libtorch tensors hold now, so that it can be written while they change.
    ///
    /// # Errors
    /// [`super::Error::Torch`] when a tensor cannot be copied.
    pub fn snapshot(&self) -> super::Result<Value> {
        let all = |items: &[Value]| items.iter().map(Value::snapshot).collect::<super::Result<Vec<_>>>();
        let pairs = |pairs: &[(Value, Value)]| {
            pairs
                .iter()
                .map(|(key, value)| Ok((key.clone(), value.snapshot()?)))
                .collect::<super::Result<Vec<_>>>()
        };
        Ok(match self {
            Value::Tensor(view) => Value::Tensor(view.snapshot()?),
            Value::List(items) => Value::List(all(items)?),
            Value::Tuple(items) => Value::Tuple(all(items)?),
            Value::Dict(items) => Value::Dict(pairs(items)?),
            Value::OrderedDict(items) => Value::OrderedDict(pairs(items)?),
            other => other.clone(),
        })
    }

    /// Python's name of the type, for messages.
    pub fn type_name(&self) -> &str {
        match self {
            Value::None => "None",
            Value::Bool(_) => "bool",
            Value::Int(_) | Value::BigInt(_) => "int",
            Value::Float(_) => "float",
            Value::Str(_) => "str",
            Value::Bytes(_) => "bytes",
            Value::List(_) => "list",
            Value::Tuple(_) => "tuple",
            Value::Set(_) => "set",
            Value::Dict(_) => "dict",
            Value::OrderedDict(_) => "collections.OrderedDict",
            Value::Counter(_) => "collections.Counter",
            Value::Tensor(_) => "torch.Tensor",
            Value::Size(_) => "torch.Size",
            Value::DType(_) => "torch.dtype",
            Value::Device(_) => "torch.device",
            Value::NumpyArray(_) => "numpy.ndarray",
            Value::NumpyScalar(_) => "numpy scalar",
            Value::Opaque(object) => &object.class,
        }
    }
}

/// The decimal digits of a [`Value::BigInt`].
pub fn big_int_to_decimal(twos_complement: &[u8]) -> String {
    let negative = twos_complement.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut magnitude = twos_complement.to_vec();
    if negative {
        let mut carry = true;
        for byte in &mut magnitude {
            let (sum, overflow) = (!*byte).overflowing_add(u8::from(carry));
            *byte = sum;
            carry = overflow;
        }
    }
    let mut digits = Vec::new();
    while magnitude.iter().any(|byte| *byte != 0) {
        let mut remainder = 0_u16;
        for byte in magnitude.iter_mut().rev() {
            let value = remainder << 8 | u16::from(*byte);
            *byte = (value / 10) as u8;
            remainder = value % 10;
        }
        digits.push(b'0' + remainder as u8);
    }
    if digits.is_empty() {
        digits.push(b'0');
    }
    if negative {
        digits.push(b'-');
    }
    digits.iter().rev().map(|digit| char::from(*digit)).collect()
}

macro_rules! value_from {
    ($($type:ty => |$value:ident| $build:expr;)*) => {
        $(impl From<$type> for Value {
            fn from($value: $type) -> Self {
                $build
            }
        })*
    };
}

value_from! {
    bool => |value| Value::Bool(value);
    i64 => |value| Value::Int(value);
    f64 => |value| Value::Float(value);
    &str => |value| Value::Str(value.to_owned());
    String => |value| Value::Str(value);
    TensorView => |value| Value::Tensor(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn big_int_digits() {
        for value in [1_i128 << 70, -(1_i128 << 70), i128::from(i64::MIN) - 1, 0, -1, 12_345] {
            assert_eq!(big_int_to_decimal(&value.to_le_bytes()), value.to_string());
        }
    }
}
