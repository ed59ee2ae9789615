//! Admission: whether bytes are a recipe that every node can run alike, and what of them goes into the log.
//!
//! The same bytes give the same answer on every node. What is admitted is not what the author sent: sections that say
//! nothing to a machine are left out, and every call counts its depth, so that a recursion ends at the same depth
//! everywhere, far from the end of the native stack. With frames bounded by [`SLOTS_MAX`] and modules by
//! [`MODULES_MAX`], the deepest stack stays below the engine's.
//!
//! Absent: what the component says of itself (`lib.rs` asks it), compiling.

use std::ops::Range;

use quorate_model::limits::PLUGIN_MAX_BYTES;
use wasmparser::{
    BinaryReader, FunctionBody, GlobalSectionReader, Operator, OperatorsReader, Parser, Payload, ValidPayload,
    Validator,
};

use crate::engine::{MODULES_MAX, features};

/// Calls inside each other, per module.
pub(crate) const DEPTH_MAX: i32 = 512;

/// Functions of one component.
const FUNCTIONS_MAX: usize = 20_000;

/// Locals of one function, parameters included.
const LOCALS_MAX: u32 = 100;

/// Values that one function has at hand at once, locals included: 8 bytes each, for at most four times [`DEPTH_MAX`]
/// frames.
const SLOTS_MAX: u32 = 350;

/// Bytes of one function's code.
const FUNCTION_MAX_BYTES: usize = 256 * 1024;

/// Components inside each other.
const NESTING_MAX: usize = 4;

/// What a recipe may import, beside the types of other imports: interfaces of our own WIT.
const IMPORTS: [&str; 6] = ["types", "context", "tree", "calls", "timers", "events"];

/// The WIT package of this host, as it stands before a version.
const PACKAGE: &str = "quorate:recipe/";

/// The newest version of it that this host has: 1.0.
const VERSION: (u64, u64) = (1, 0);

/// Why bytes are not admitted; for the person who installs them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

fn refuse<T>(why: impl Into<String>) -> Result<T, Refused> {
    Err(Refused(why.into()))
}

impl From<wasmparser::BinaryReaderError> for Refused {
    fn from(error: wasmparser::BinaryReaderError) -> Self {
        Self(format!("not a component that this host takes: {} (at byte {})", error.message(), error.offset()))
    }
}

/// Checks a component and returns the bytes for the log.
///
/// Errors: the first thing that is wrong, with its limit.
pub(crate) fn admit(author: &[u8]) -> Result<Vec<u8>, Refused> {
    if author.len() > PLUGIN_MAX_BYTES {
        return refuse(format!("too large: {} bytes, limit {PLUGIN_MAX_BYTES}", author.len()));
    }
    if Parser::is_core_wasm(author) {
        return refuse("a core module, not a component: build it with `quorate recipe build`");
    }
    if !Parser::is_component(author) {
        return refuse("not a component: it does not begin like one; is it the right file?");
    }
    check(author)?;
    let admitted = rewrite_component(author)?;
    if admitted.len() > PLUGIN_MAX_BYTES {
        return refuse(format!(
            "too large: {} bytes once call depth is counted, limit {PLUGIN_MAX_BYTES}",
            admitted.len()
        ));
    }
    // What was rewritten is checked as if it had been sent: a mistake here must not reach the log.
    Validator::new_with_features(features()).validate_all(&admitted)?;
    Ok(admitted)
}

/// Validates all of it under our list of features, and counts.
fn check(bytes: &[u8]) -> Result<(), Refused> {
    let mut validator = Validator::new_with_features(features());
    let (mut functions, mut modules, mut depth, mut handler) = (0, 0, 0_usize, false);
    let mut allocations = Default::default();
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload?;
        match &payload {
            Payload::ModuleSection { .. } => {
                modules += 1;
                depth += 1;
                if modules > MODULES_MAX {
                    return refuse(format!("more than {MODULES_MAX} core modules"));
                }
            }
            Payload::ComponentSection { .. } => {
                depth += 1;
                if depth > NESTING_MAX {
                    return refuse(format!("components nested deeper than {NESTING_MAX}"));
                }
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(imports) if depth == 0 => {
                for import in imports.clone() {
                    let name = import?.name.name;
                    if !import_is_ours(name) {
                        return refuse(format!(
                            "it imports {name}; only {PACKAGE}*@{}.x up to {}.{} is given (no WASI)",
                            VERSION.0, VERSION.0, VERSION.1
                        ));
                    }
                }
            }
            Payload::ComponentExportSection(exports) if depth == 0 => {
                for export in exports.clone() {
                    handler |= of_package(export?.name.name) == Some("handler");
                }
            }
            _ => {}
        }
        if let ValidPayload::Func(to_validate, body) = validator.payload(&payload)? {
            functions += 1;
            if functions > FUNCTIONS_MAX {
                return refuse(format!("more than {FUNCTIONS_MAX} functions"));
            }
            let mut function = to_validate.into_validator(std::mem::take(&mut allocations));
            check_function(&mut function, &body)?;
            allocations = function.into_allocations();
        }
    }
    if !handler {
        return refuse(format!("it does not export {PACKAGE}handler@{}.{}", VERSION.0, VERSION.1));
    }
    Ok(())
}

fn check_function<T: wasmparser::WasmModuleResources>(
    function: &mut wasmparser::FuncValidator<T>,
    body: &FunctionBody<'_>,
) -> Result<(), Refused> {
    let index = function.index();
    let size = body.range().len();
    if size > FUNCTION_MAX_BYTES {
        return refuse(format!("function {index} has {size} bytes, limit {FUNCTION_MAX_BYTES}"));
    }
    let mut reader = body.get_binary_reader();
    function.read_locals(&mut reader)?;
    let locals = function.len_locals();
    if locals > LOCALS_MAX {
        return refuse(format!("function {index} has {locals} locals and parameters, limit {LOCALS_MAX}"));
    }
    let mut operators = OperatorsReader::new(reader);
    while !operators.eof() {
        let (operator, offset) = operators.read_with_offset()?;
        function.op(offset, &operator)?;
        let slots = locals + function.operand_stack_height();
        if slots > SLOTS_MAX {
            return refuse(format!("function {index} has {slots} values at once, limit {SLOTS_MAX}"));
        }
    }
    operators.finish()?;
    Ok(())
}

/// The interface of a name in our package, if its version is one that this host has.
fn of_package(name: &str) -> Option<&str> {
    let (interface, version) = name.strip_prefix(PACKAGE)?.split_once('@')?;
    let mut numbers = version.split('.').map(str::parse::<u64>);
    match (numbers.next()?, numbers.next()?, numbers.next()?, numbers.next()) {
        (Ok(major), Ok(minor), Ok(_), None) if major == VERSION.0 && minor <= VERSION.1 => Some(interface),
        _ => None,
    }
}

fn import_is_ours(name: &str) -> bool {
    of_package(name).is_some_and(|interface| IMPORTS.contains(&interface))
}

// ---- rewriting

const CUSTOM_SECTION: u8 = 0;
const GLOBAL_SECTION: u8 = 6;
const CODE_SECTION: u8 = 10;
const CORE_MODULE_SECTION: u8 = 1;
const COMPONENT_SECTION: u8 = 4;
const COMPONENT_HEADER: [u8; 8] = [0, b'a', b's', b'm', 0x0d, 0, 1, 0];
const MODULE_HEADER: [u8; 8] = [0, b'a', b's', b'm', 1, 0, 0, 0];

/// LEB128 of an unsigned number.
fn number(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn section(id: u8, content: &[u8], out: &mut Vec<u8>) {
    out.push(id);
    number(content.len() as u64, out);
    out.extend_from_slice(content);
}

/// Copies a component section by section, its core modules rewritten.
fn rewrite_component(bytes: &[u8]) -> Result<Vec<u8>, Refused> {
    let mut out = COMPONENT_HEADER.to_vec();
    let mut inner: usize = 0;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload?;
        // What lies inside a module or a nested component was rewritten with it.
        match &payload {
            Payload::ModuleSection { unchecked_range, .. } => {
                if inner == 0 {
                    section(CORE_MODULE_SECTION, &rewrite_module(&bytes[unchecked_range.clone()])?, &mut out);
                }
                inner += 1;
            }
            Payload::ComponentSection { unchecked_range, .. } => {
                if inner == 0 {
                    section(COMPONENT_SECTION, &rewrite_component(&bytes[unchecked_range.clone()])?, &mut out);
                }
                inner += 1;
            }
            Payload::End(_) => inner = inner.saturating_sub(1),
            payload if inner == 0 => {
                if let Some((id, range)) = payload.as_section()
                    && id != CUSTOM_SECTION
                {
                    section(id, &bytes[range], &mut out);
                }
            }
            _ => {}
        }
    }
    Ok(out)
}

/// Copies a core module, with a counter of calls that are open and code around each call that keeps it.
fn rewrite_module(bytes: &[u8]) -> Result<Vec<u8>, Refused> {
    let mut out = MODULE_HEADER.to_vec();
    let (mut globals_before, mut own_globals): (u32, Option<u32>) = (0, None);
    let mut bodies: Vec<Vec<u8>> = Vec::new();
    let mut bodies_left = 0;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload?;
        match &payload {
            Payload::ImportSection(imports) => {
                for import in imports.clone().into_imports() {
                    globals_before += u32::from(matches!(import?.ty, wasmparser::TypeRef::Global(_)));
                }
            }
            Payload::GlobalSection(globals) => {
                own_globals = Some(globals.count());
                section(GLOBAL_SECTION, &with_counter(globals, bytes)?, &mut out);
                continue;
            }
            Payload::CodeSectionStart { count, .. } => {
                bodies_left = *count;
            }
            Payload::CodeSectionEntry(body) => {
                let counter = globals_before + own_globals.unwrap_or(0);
                bodies.push(rewrite_body(body, bytes, counter)?);
                bodies_left -= 1;
                if bodies_left == 0 {
                    let mut content = Vec::new();
                    number(bodies.len() as u64, &mut content);
                    for body in &bodies {
                        number(body.len() as u64, &mut content);
                        content.extend_from_slice(body);
                    }
                    section(CODE_SECTION, &content, &mut out);
                }
                continue;
            }
            _ => {}
        }
        let Some((id, range)) = payload.as_section() else { continue };
        // The counter has to stand before all that may follow globals: exports and everything after them.
        if id > GLOBAL_SECTION && own_globals.is_none() {
            own_globals = Some(0);
            let mut content = vec![1];
            counter_entry(&mut content);
            section(GLOBAL_SECTION, &content, &mut out);
        }
        match id {
            CUSTOM_SECTION => {}
            // An empty one has no entries to end it.
            CODE_SECTION if bodies_left == 0 => section(CODE_SECTION, &[0], &mut out),
            CODE_SECTION => {}
            id => section(id, &bytes[range], &mut out),
        }
    }
    Ok(out)
}

/// `(global (mut i32) (i32.const DEPTH_MAX))`
fn counter_entry(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0x7f, 0x01, 0x41]);
    signed(DEPTH_MAX, out);
    out.push(0x0b);
}

/// LEB128 of a signed number.
fn signed(mut value: i32, out: &mut Vec<u8>) {
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        if (value == 0 && byte & 0x40 == 0) || (value == -1 && byte & 0x40 != 0) {
            return out.push(byte);
        }
        out.push(byte | 0x80);
    }
}

/// The global section with the counter as its last entry, so that no other global changes its number.
fn with_counter(globals: &GlobalSectionReader<'_>, bytes: &[u8]) -> Result<Vec<u8>, Refused> {
    let range = globals.range();
    let mut reader = BinaryReader::new(&bytes[range.clone()], range.start);
    reader.read_var_u32()?;
    let entries = reader.original_position()..range.end;
    let mut content = Vec::with_capacity(range.len() + 8);
    number(u64::from(globals.count()) + 1, &mut content);
    content.extend_from_slice(&bytes[entries]);
    counter_entry(&mut content);
    Ok(content)
}

/// A function's code with each call between "one fewer left, or trap" and "one more left".
fn rewrite_body(body: &FunctionBody<'_>, bytes: &[u8], counter: u32) -> Result<Vec<u8>, Refused> {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let get = |out: &mut Vec<u8>| {
        out.push(0x23);
        number(counter.into(), out);
    };
    let add = |step: i32, out: &mut Vec<u8>| {
        out.push(0x41);
        signed(step, out);
        out.extend_from_slice(&[0x6a, 0x24]);
        number(counter.into(), out);
    };
    // i32.eqz, if, unreachable, end
    get(&mut before);
    before.extend_from_slice(&[0x45, 0x04, 0x40, 0x00, 0x0b]);
    get(&mut before);
    add(-1, &mut before);
    get(&mut after);
    add(1, &mut after);

    let range = body.range();
    let mut operators = body.get_operators_reader()?;
    let start = operators.original_position();
    let mut out = bytes[range.start..start].to_vec();
    let copy = |range: Range<usize>, out: &mut Vec<u8>| out.extend_from_slice(&bytes[range]);
    while !operators.eof() {
        let from = operators.original_position();
        let operator = operators.read()?;
        let whole = from..operators.original_position();
        if matches!(operator, Operator::Call { .. } | Operator::CallIndirect { .. }) {
            out.extend_from_slice(&before);
            copy(whole, &mut out);
            out.extend_from_slice(&after);
        } else {
            copy(whole, &mut out);
        }
    }
    Ok(out)
}
