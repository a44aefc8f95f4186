//! `--devices`: one process per CUDA device of a list. The processes get the same command line and choose their device by their local rank.
use super::TrainArgs;
use crate::cli::local_ranks::{self, LocalRanks};
use crate::device::DeviceSpec;
use crate::distributed::{Launch, LaunchFlags};
use crate::{Error, Result};
use fornax_engine::Device;
use std::ffi::OsString;
use std::fmt;
use std::str::FromStr;

const FLAG: &str = "--devices";

/// Ordinals of CUDA devices, by local rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceList(Vec<usize>);

impl FromStr for DeviceList {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<DeviceList, String> {
        let ordinals: std::result::Result<Vec<usize>, _> = text.split(',').map(str::parse).collect();
        let ordinals =
            ordinals.map_err(|_| "must be numbers of devices, separated by commas, such as 0,1")?;
        let is_repeated = |at: usize| ordinals[..at].contains(&ordinals[at]);
        match (0..ordinals.len()).find(|at| is_repeated(*at)) {
            Some(at) => Err(format!("device {} is listed twice", ordinals[at])),
            None => Ok(DeviceList(ordinals)),
        }
    }
}

impl fmt::Display for DeviceList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ordinals: Vec<String> = self.0.iter().map(usize::to_string).collect();
        f.write_str(&ordinals.join(","))
    }
}

/// True in a process that `--devices` has started.
pub fn is_started_process() -> bool {
    local_ranks::launcher().is_some_and(|launcher| launcher == FLAG)
}

impl DeviceList {
    /// Number of devices.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Starts one process per device with the arguments of this one, and waits for them.
    pub fn start(&self, flags: &LaunchFlags) -> Result<()> {
        let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
        let ranks = LocalRanks {
            launcher: FLAG,
            count: self.count(),
            nodes: 1,
            node_rank: 0,
            address: "127.0.0.1".into(),
            port: None,
            job: None,
            timeout: flags.timeout(),
        };
        ranks.run(&arguments)
    }

    /// Opens the device of a local rank. `device` is that of `--device`.
    pub fn open(&self, device: DeviceSpec, local_rank: usize) -> Result<Device> {
        let ordinal = self.0[local_rank];
        match device {
            DeviceSpec::Emulated(_) => device.open().map(|_| Device::Cuda(ordinal)),
            _ => DeviceSpec::Cuda(Some(ordinal)).open(),
        }
    }

    /// Checks that nothing else chooses the devices or the ranks, and that the devices exist.
    pub fn check(&self, args: &TrainArgs) -> Result<()> {
        let place = [
            ("--rank", args.launch.rank.is_some()),
            ("--world-size", args.launch.world_size.is_some()),
            ("--local-rank", args.launch.local_rank.is_some()),
            ("--master-addr", args.launch.master_addr.is_some()),
            ("--master-port", args.launch.master_port.is_some()),
        ];
        if let Some((flag, _)) = place.iter().find(|(_, is_given)| *is_given) {
            return Err(Error::usage(format!("{flag} does not work with {FLAG}"))
                .because(format!("{FLAG} starts the processes of this machine and sets their ranks"))
                .remedy(format!("omit {flag}, or choose the device of each process with --device")));
        }
        let launch = Launch::detect(&LaunchFlags::default(), |name| std::env::var(name).ok())?;
        let launcher = local_ranks::launcher().or(launch.map(|launch| launch.launcher.to_string()));
        if let Some(launcher) = launcher {
            return Err(Error::usage(format!("{FLAG} does not work with a launcher"))
                .because(format!("{launcher} has started this process as one of several ranks"))
                .remedy(format!(
                    "omit {FLAG}: each rank has the device of its local rank; CUDA_VISIBLE_DEVICES restricts them"
                )));
        }
        if args.recipe.settings()?.seeds.is_some() && self.count() > 1 {
            return Err(Error::usage(format!("--seeds does not work with several devices in {FLAG}"))
                .because("the processes are started for one run")
                .remedy("start one run per seed, with --seed"));
        }
        match args.compute.device {
            DeviceSpec::Cpu | DeviceSpec::Cuda(Some(_)) => {
                Err(Error::usage(format!("--device does not work with {FLAG}"))
                    .because("both choose the devices, and not the same")
                    .remedy(format!("omit one of the two; {FLAG} is for CUDA devices and emulated ones")))
            }
            DeviceSpec::Emulated(count) => match self.0.iter().find(|ordinal| **ordinal >= count) {
                Some(ordinal) => Err(Error::usage(format!("emulated device {ordinal} does not exist"))
                    .at(FLAG)
                    .because(format!("there are {count} emulated devices, which count from 0"))
                    .remedy(format!("use --device emulated:{}", ordinal + 1))),
                None => Ok(()),
            },
            DeviceSpec::Auto | DeviceSpec::Cuda(None) => self.0.iter().try_for_each(|ordinal| {
                DeviceSpec::Cuda(Some(*ordinal)).open().map(drop).map_err(|error| error.at(FLAG))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_of_devices_is_parsed() {
        assert_eq!("2,0".parse(), Ok(DeviceList(vec![2, 0])));
        assert_eq!("3".parse(), Ok(DeviceList(vec![3])));
        for wrong in ["", "0,", "-1", "a", "0,1,0", "cuda:0", "0 1"] {
            assert!(wrong.parse::<DeviceList>().is_err(), "{wrong}");
        }
    }
}
