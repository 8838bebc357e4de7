//! The stack machine.

use std::collections::{BTreeMap, HashMap};

use super::super::{Error, Result};
use super::globals::{self, Global};
use super::graph::{DictKind, Graph, Node, NodeId, Object};
use super::opcode::{Op, Opcodes};
use super::{Origin, Storages};

/// A finished run: the graph, its root, and where the pickle ended.
pub(super) struct Machine<'a> {
    pub(super) graph: Graph,
    pub(super) root: NodeId,
    pub(super) end: usize,
    pub(super) origin: &'a Origin,
    /// Every class and function that was named, and whether it is known.
    pub(super) globals: BTreeMap<String, bool>,
    /// Offset of the opcode being executed.
    pub(super) at: usize,
    stack: Vec<NodeId>,
    marks: Vec<usize>,
    memo: HashMap<u32, NodeId>,
    /// Shared nodes of the commonest constants.
    constants: [NodeId; 4],
}

impl<'a> Machine<'a> {
    /// Executes the pickle at the start of `bytes` up to its STOP.
    pub(super) fn run(bytes: &'a [u8], origin: &'a Origin, storages: &mut dyn Storages) -> Result<Self> {
        let mut graph = Graph::new(bytes.len());
        let constants = [
            graph.add(Node::None)?,
            graph.add(Node::Bool(false))?,
            graph.add(Node::Bool(true))?,
            graph.add(Node::Tuple(Vec::new()))?,
        ];
        let mut machine = Self {
            graph,
            root: constants[0],
            end: 0,
            origin,
            globals: BTreeMap::new(),
            at: 0,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            constants,
        };
        let mut opcodes = Opcodes::new(bytes, origin);
        loop {
            machine.at = opcodes.at;
            match opcodes.next_op()? {
                Op::Stop => break,
                op => machine.step(op, storages)?,
            }
        }
        machine.root = machine.pop()?;
        machine.end = opcodes.at;
        Ok(machine)
    }

    fn step(&mut self, op: Op<'_>, storages: &mut dyn Storages) -> Result<()> {
        match op {
            Op::Stop | Op::Nothing => Ok(()),
            Op::Mark => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            Op::Pop => self.pop_or_unmark(),
            Op::PopMark => self.pop_mark().map(drop),
            Op::Dup => {
                let top = self.top()?;
                self.stack.push(top);
                Ok(())
            }
            Op::None => self.push_id(self.constants[0]),
            Op::Bool(value) => self.push_id(self.constants[1 + usize::from(value)]),
            Op::EmptyTuple => self.push_id(self.constants[3]),
            Op::Int(value) => self.push(Node::Int(value)),
            Op::Long(bytes) => self.push(long(bytes)),
            Op::Float(value) => self.push(Node::Float(value)),
            Op::Str(text) => self.push(Node::Str(text.to_owned())),
            Op::OwnedStr(text) => self.push(Node::Str(text)),
            Op::OwnedBytes(bytes) => self.push(match String::from_utf8(bytes) {
                Ok(text) => Node::Str(text),
                Err(error) => Node::Bytes(error.into_bytes()),
            }),
            Op::Digits(digits) => self.push(decimal(digits).ok_or_else(|| self.error("malformed int"))?),
            Op::ByteStr(bytes) => self.push(match std::str::from_utf8(bytes) {
                Ok(text) => Node::Str(text.to_owned()),
                Err(_) => Node::Bytes(bytes.to_vec()),
            }),
            Op::Bytes(bytes) => self.push(Node::Bytes(bytes.to_vec())),
            Op::EmptyList => self.push(Node::List(Vec::new())),
            Op::EmptyDict => self.push(Node::Dict(DictKind::Plain, Vec::new())),
            Op::EmptySet => self.push(Node::Set(Vec::new())),
            Op::List => self.collect(Node::List),
            Op::Tuple => self.collect(Node::Tuple),
            Op::FrozenSet => self.collect(Node::Set),
            Op::TupleOf(n) => {
                let items = self.pop_n(n)?;
                self.push(Node::Tuple(items))
            }
            Op::Dict => {
                let items = self.pop_mark()?;
                let pairs = self.pairs(&items)?;
                self.push(Node::Dict(DictKind::Plain, pairs))
            }
            Op::Append => {
                let item = self.pop()?;
                self.extend(&[item])
            }
            Op::Appends | Op::AddItems => {
                let items = self.pop_mark()?;
                self.extend(&items)
            }
            Op::SetItem => {
                let items = self.pop_n(2)?;
                self.set_items(&items)
            }
            Op::SetItems => {
                let items = self.pop_mark()?;
                self.set_items(&items)
            }
            Op::Global(module, name) => self.push_global(module, name),
            Op::StackGlobal => {
                let names = self.pop_n(2)?;
                let (Some(module), Some(name)) = (self.graph.as_str(names[0]), self.graph.as_str(names[1]))
                else {
                    return Err(self.error("STACK_GLOBAL without two strings"));
                };
                let (module, name) = (module.to_owned(), name.to_owned());
                self.push_global(&module, &name)
            }
            Op::Reduce => {
                let operands = self.pop_n(2)?;
                let Some(args) = self.graph.copy_seq(operands[1])? else {
                    return Err(self.error("REDUCE without a tuple of arguments"));
                };
                self.call_and_push(operands[0], args)
            }
            Op::NewObj => {
                let operands = self.pop_n(2)?;
                let Some(args) = self.graph.copy_seq(operands[1])? else {
                    return Err(self.error("NEWOBJ without a tuple of arguments"));
                };
                self.call_and_push(operands[0], args)
            }
            Op::NewObjEx => {
                let operands = self.pop_n(3)?;
                let Some(mut args) = self.graph.copy_seq(operands[1])? else {
                    return Err(self.error("NEWOBJ_EX without a tuple of arguments"));
                };
                args.push(operands[2]);
                self.call_and_push(operands[0], args)
            }
            Op::Inst(module, name) => {
                let args = self.pop_mark()?;
                self.push_global(module, name)?;
                let callee = self.pop()?;
                self.call_and_push(callee, args)
            }
            Op::Obj => {
                let operands = self.pop_mark()?;
                let Some((callee, args)) = operands.split_first() else {
                    return Err(self.error("OBJ without a class"));
                };
                self.call_and_push(*callee, args.to_vec())
            }
            Op::Build => {
                let state = self.pop()?;
                let target = self.top()?;
                self.build(target, state)
            }
            Op::Put(index) => {
                let top = self.top()?;
                self.memo.insert(index, top);
                Ok(())
            }
            Op::Memoize => {
                let top = self.top()?;
                self.memo.insert(self.memo.len() as u32, top);
                Ok(())
            }
            Op::Get(index) => match self.memo.get(&index) {
                Some(id) => self.push_id(*id),
                None => Err(self.error(format!("memo entry {index} is used before it is set"))),
            },
            Op::PersId => {
                let id = self.pop()?;
                let found = self.persistent(id, storages)?;
                self.push_id(found)
            }
            Op::PersIdText(key) => {
                let id = self.add(Node::Str(key.to_owned()))?;
                let found = self.persistent(id, storages)?;
                self.push_id(found)
            }
            Op::Unsupported(what) => Err(self.error(format!("opcode {what} has no place in a checkpoint"))),
        }
    }

    pub(super) fn error(&self, problem: impl Into<String>) -> Error {
        self.origin.error(self.at, problem)
    }

    pub(super) fn add(&mut self, node: Node) -> Result<NodeId> {
        self.graph.add(node)
    }

    fn push(&mut self, node: Node) -> Result<()> {
        let id = self.graph.add(node)?;
        self.push_id(id)
    }

    fn push_id(&mut self, id: NodeId) -> Result<()> {
        self.stack.push(id);
        Ok(())
    }

    fn call_and_push(&mut self, callee: NodeId, args: Vec<NodeId>) -> Result<()> {
        let result = self.call(callee, args)?;
        self.push_id(result)
    }

    fn push_global(&mut self, module: &str, name: &str) -> Result<()> {
        match globals::resolve(module, name) {
            Ok(global) => {
                let is_known = !matches!(global, Global::Other(_));
                self.globals.entry(format!("{module}.{name}")).or_insert(is_known);
                self.push(Node::Global(global))
            }
            Err(()) => Err(Error::ForbiddenGlobal {
                record: self.origin.record.clone(),
                global: format!("{module}.{name}"),
                offset: self.origin.base + self.at,
            }),
        }
    }

    /// Values above the topmost mark belong to it: nothing below may be popped.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<NodeId> {
        if self.stack.len() <= self.floor() {
            return Err(self.error("the stack is empty"));
        }
        self.stack.pop().ok_or_else(|| self.error("the stack is empty"))
    }

    fn top(&self) -> Result<NodeId> {
        match self.stack.last() {
            Some(top) if self.stack.len() > self.floor() => Ok(*top),
            _ => Err(self.error("the stack is empty")),
        }
    }

    fn pop_n(&mut self, n: usize) -> Result<Vec<NodeId>> {
        if self.stack.len() < self.floor() + n {
            return Err(self.error("the stack is empty"));
        }
        Ok(self.stack.split_off(self.stack.len() - n))
    }

    fn pop_mark(&mut self) -> Result<Vec<NodeId>> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => Err(self.error("no mark on the stack")),
        }
    }

    /// POP removes a mark when it is on top.
    fn pop_or_unmark(&mut self) -> Result<()> {
        if self.marks.last() == Some(&self.stack.len()) {
            self.marks.pop();
            return Ok(());
        }
        self.pop().map(drop)
    }

    fn collect(&mut self, build: impl FnOnce(Vec<NodeId>) -> Node) -> Result<()> {
        let items = self.pop_mark()?;
        self.push(build(items))
    }

    pub(super) fn pairs(&self, items: &[NodeId]) -> Result<Vec<(NodeId, NodeId)>> {
        if !items.len().is_multiple_of(2) {
            return Err(self.error("a key without a value"));
        }
        Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
    }

    fn extend(&mut self, new: &[NodeId]) -> Result<()> {
        let target = self.top()?;
        match self.graph.get_mut(target) {
            Node::List(items) | Node::Set(items) => items.extend_from_slice(new),
            Node::Object(object) => object.items.extend_from_slice(new),
            _ => return Err(self.error("elements are appended to something that is not a list")),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[NodeId]) -> Result<()> {
        let new = self.pairs(items)?;
        let target = self.top()?;
        match self.graph.get_mut(target) {
            Node::Dict(_, pairs) => pairs.extend(new),
            Node::Object(object) => object.pairs.extend(new),
            _ => return Err(self.error("items are set on something that is not a dict")),
        }
        Ok(())
    }

    /// A node for an instance of a class that is not known.
    pub(super) fn object(&mut self, class: String, args: Vec<NodeId>) -> Result<NodeId> {
        self.graph.charge(class.len())?;
        self.add(Node::Object(Box::new(Object { class, args, ..Object::default() })))
    }

    /// The global a node stands for.
    pub(super) fn global(&self, id: NodeId) -> Option<&Global> {
        match self.graph.get(id) {
            Node::Global(global) => Some(global),
            _ => None,
        }
    }
}

/// INT and LONG, in decimal digits.
fn decimal(digits: &str) -> Option<Node> {
    if let Ok(value) = digits.parse() {
        return Some(Node::Int(value));
    }
    let (negative, magnitude) = match digits.strip_prefix('-') {
        Some(magnitude) => (true, magnitude),
        None => (false, digits),
    };
    // Little-endian, one byte at a time: there are at most a few thousand digits.
    let mut bytes = vec![0_u8];
    for digit in magnitude.chars() {
        let mut carry = digit.to_digit(10)?;
        for byte in &mut bytes {
            carry += u32::from(*byte) * 10;
            *byte = carry as u8;
            carry >>= 8;
        }
        if carry > 0 {
            bytes.push(carry as u8);
        }
    }
    bytes.push(0);
    if negative {
        let mut carry = true;
        for byte in &mut bytes {
            (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
        }
    }
    Some(long(&bytes))
}

/// LONG1, LONG4.
fn long(bytes: &[u8]) -> Node {
    let sign = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
    let padding = if sign { 0xff } else { 0 };
    // Trailing bytes that only repeat the sign carry nothing.
    let mut len = bytes.len();
    while len > 1 && bytes[len - 1] == padding && (bytes[len - 2] & 0x80 != 0) == sign {
        len -= 1;
    }
    if len > 8 {
        return Node::BigInt(bytes[..len].to_vec());
    }
    let mut word = [padding; 8];
    word[..len].copy_from_slice(&bytes[..len]);
    Node::Int(i64::from_le_bytes(word))
}
