//! The engine's settings: each line that keeps two nodes equal, with its reason.
//!
//! Together with the cost table below, the rules of `module.rs` and the WIT they are one *engine epoch*: a change of
//! any of them that changes what a run does, or what fuel it takes, is another epoch (rules.md 25). The golden corpus
//! in `tests/golden.rs` notices.
//!
//! Absent: a clock. Nothing here stops a run by time; fuel does.

use wasmparser::WasmFeatures;
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OperatorCost, OptLevel, PoolingAllocationConfig, Result,
    VariableOperatorCost,
};

/// Linear memory of one run, in bytes.
pub(crate) const MEMORY_MAX_BYTES: usize = 16 * 1024 * 1024;

/// Elements of one table.
pub(crate) const TABLE_MAX_ELEMENTS: usize = 10_000;

/// Core modules, memories and tables of one component: wit-component makes three modules, one memory, two tables.
pub(crate) const MODULES_MAX: usize = 4;

/// Bytes that the guest may hand over in one host call: a full znode, and room for its path and shape.
pub(crate) const HOST_CALL_MAX_BYTES: usize = 2 * 1024 * 1024;

/// Runs at once in one process: apply, and queries.
pub const RUNS_MAX: u32 = 32;

/// Native stack of a run. Depth and frames are bounded in `module.rs` so that this is never reached; who runs recipes
/// needs a thread with [`crate::STACK_BYTES`].
const WASM_STACK_BYTES: usize = 8 * 1024 * 1024;

/// What a module may use, and nothing that wasm has grown since: what rustc and clang emit for
/// `wasm32-unknown-unknown`.
pub(crate) fn features() -> WasmFeatures {
    WasmFeatures::FLOATS
        | WasmFeatures::MUTABLE_GLOBAL
        | WasmFeatures::SATURATING_FLOAT_TO_INT
        | WasmFeatures::SIGN_EXTENSION
        | WasmFeatures::MULTI_VALUE
        | WasmFeatures::BULK_MEMORY
        | WasmFeatures::REFERENCE_TYPES
        | WasmFeatures::COMPONENT_MODEL
}

/// Makes the engine.
///
/// Errors: this machine cannot run it.
pub(crate) fn engine() -> Result<Engine> {
    let mut config = Config::new();
    // The bits of a NaN differ between processors; one of them is chosen.
    config.cranelift_nan_canonicalization(true);
    // Nothing but the list above: vectors and relaxed vectors (which differ between processors), tail calls, 64-bit and
    // several memories, page sizes, wide arithmetic, exceptions, garbage collection, switching of stacks and all of
    // components' async stay off, also those that a newer engine switches on by itself.
    config.wasm_features(WasmFeatures::all(), false);
    config.wasm_features(features(), true);
    // No shared memory: nothing of a run depends on scheduling. Threads themselves are not compiled in.
    config.shared_memory(false);
    // Work is counted, and by our own table: the engine's may change.
    config.consume_fuel(true);
    config.operator_cost(costs());
    // The exact depth at which a native stack overflows differs between builds: far above what modules may reach.
    config.max_wasm_stack(WASM_STACK_BYTES);
    // Of no use without async, but the engine wants it to be no less.
    config.async_stack_size(WASM_STACK_BYTES);
    // Fuel is the same at every level; native frames are not, so all nodes use one.
    config.cranelift_opt_level(OptLevel::Speed);
    // A memory grows inside its slot or not at all.
    config.memory_may_move(false);
    // Texts of traps are never stored or told, so nobody needs their frames.
    config.wasm_backtrace_max_frames(None);
    config.parallel_compilation(true);

    let mut pool = PoolingAllocationConfig::new();
    pool.max_memory_size(MEMORY_MAX_BYTES);
    pool.table_elements(TABLE_MAX_ELEMENTS);
    pool.total_component_instances(RUNS_MAX);
    pool.max_core_instances_per_component(2 * MODULES_MAX as u32);
    pool.max_memories_per_component(MODULES_MAX as u32);
    pool.max_tables_per_component(2 * MODULES_MAX as u32);
    pool.total_core_instances(RUNS_MAX * 2 * MODULES_MAX as u32);
    pool.total_memories(RUNS_MAX * 2);
    pool.total_tables(RUNS_MAX * 2 * MODULES_MAX as u32);
    // A slot's pages stay mapped from one run to the next and are wiped where they were written: half the cost of a
    // run.
    pool.linear_memory_keep_resident(1024 * 1024);
    pool.table_keep_resident(64 * 1024);
    pool.pagemap_scan(Enabled::Auto);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config)
}

/// One unit for each instruction that does something; calls, which the depth counter makes longer, and what grows with
/// a size known only when it runs, cost more.
macro_rules! cost_of {
    (Nop) => {
        0
    };
    (Drop) => {
        0
    };
    (Block) => {
        0
    };
    (Loop) => {
        0
    };
    (Unreachable) => {
        0
    };
    (Return) => {
        0
    };
    (Else) => {
        0
    };
    (End) => {
        0
    };
    (Call) => {
        5
    };
    (CallIndirect) => {
        10
    };
    (I32DivS) => {
        5
    };
    (I32DivU) => {
        5
    };
    (I32RemS) => {
        5
    };
    (I32RemU) => {
        5
    };
    (I64DivS) => {
        8
    };
    (I64DivU) => {
        8
    };
    (I64RemS) => {
        8
    };
    (I64RemU) => {
        8
    };
    (F32Sqrt) => {
        5
    };
    (F64Sqrt) => {
        8
    };
    (F32Div) => {
        5
    };
    (F64Div) => {
        5
    };
    (MemoryGrow) => {
        100
    };
    (TableGrow) => {
        100
    };
    ($other:ident) => {
        1
    };
}

macro_rules! table {
    ($(@$proposal:ident $op:ident $({ $($arg:ident: $argty:ty),* })? => $visit:ident ($($ann:tt)*))*) => {
        OperatorCost {
            $($op: cost_of!($op),)*
            variable: VariableOperatorCost {
                memory_copy_per_byte: 1,
                memory_fill_per_byte: 1,
                memory_init_per_byte: 1,
                // A page is 64 KiB that the machine has to find and wipe.
                memory_grow_per_page: 200,
                table_copy_per_element: 1,
                table_fill_per_element: 1,
                table_init_per_element: 1,
                table_grow_per_element: 1,
                array_copy_per_element: 1,
                array_fill_per_element: 1,
                array_new_data_per_element: 1,
                array_init_data_per_element: 1,
                array_new_elem_per_element: 1,
                array_init_elem_per_element: 1,
                array_new_default_per_element: 1,
                array_new_per_element: 1,
            },
        }
    };
}

fn costs() -> OperatorCost {
    wasmparser::for_each_operator!(table)
}
