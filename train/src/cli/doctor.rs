//! `fornax doctor`.
use super::{print, table};
use crate::Result;
use crate::report::{Machine, bytes};

pub fn execute() -> Result<()> {
    let machine = Machine::detect();
    let memory = if machine.memory > 0 { bytes(machine.memory) } else { "unknown".into() };
    let rows = [
        ("fornax", machine.fornax.to_string()),
        ("platform", machine.platform),
        ("processor", machine.cpu),
        ("vector code", format!("{} (the widest that this processor has kernels for)", machine.simd)),
        ("threads", format!("{} (change with --threads; results do not depend on it)", machine.threads)),
        ("memory", memory),
        ("CUDA", "not in this build: training runs on the processor".into()),
    ];
    print(&table(&rows.map(|(name, value)| vec![name.to_string(), value]), &[]));
    Ok(())
}
