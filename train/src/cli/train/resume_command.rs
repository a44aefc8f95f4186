//! Command line that resumes an interrupted run in the way in which it was started.
use super::TrainArgs;
use crate::cli::local_ranks;
use crate::device::DeviceSpec;
use std::path::Path;

/// The command with which a run is resumed from its folder.
pub fn resume_command(args: &TrainArgs, folder: &Path) -> String {
    let environment = |name: &str| std::env::var(name).ok();
    command(args, folder, local_ranks::launcher().as_deref(), &environment)
}

fn command(
    args: &TrainArgs,
    folder: &Path,
    launcher: Option<&str>,
    environment: &dyn Fn(&str) -> Option<String>,
) -> String {
    let number = |name: &str| environment(name).and_then(|text| text.parse::<usize>().ok());
    let mut train = format!("train --resume {}", quoted(&folder.display().to_string()));
    if let Some(devices) = &args.devices {
        train += &format!(" --devices {devices}");
    }
    if args.compute.device != DeviceSpec::Auto {
        train += &format!(" --device {}", args.compute.device);
    }
    let (Some("fornax launch"), Some(local)) = (launcher, number("LOCAL_WORLD_SIZE")) else {
        return format!("fornax {train}");
    };
    let nodes = number("WORLD_SIZE").map_or(1, |world| world / local.max(1));
    let address = environment("MASTER_ADDR").unwrap_or_default();
    let place = match nodes {
        0 | 1 => String::new(),
        nodes => format!(" --nnodes {nodes} --node-rank N --master-addr {address}"),
    };
    format!("fornax launch --nproc-per-node {local}{place} {train}")
}

/// A path as the shell reads it.
fn quoted(path: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+=:,@%".contains(c);
    if path.chars().all(is_plain) { path.into() } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct TrainLine {
        #[command(flatten)]
        args: TrainArgs,
    }

    #[test]
    fn command_starts_the_ranks_again_and_quotes_the_folder() {
        let args = |line: &str| TrainLine::parse_from(format!("train {line}").split_whitespace()).args;
        let of = |line: &str, launcher: Option<&str>, variables: &[(&str, &str)]| {
            let variable = |name: &str| {
                variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string())
            };
            command(&args(line), Path::new("/o/my run"), launcher, &variable)
        };
        assert_eq!(of("", None, &[]), "fornax train --resume '/o/my run'");
        let one = [("LOCAL_WORLD_SIZE", "2"), ("WORLD_SIZE", "2")];
        let launch = Some("fornax launch");
        assert_eq!(of("", launch, &one), "fornax launch --nproc-per-node 2 train --resume '/o/my run'");
        let two = [("LOCAL_WORLD_SIZE", "4"), ("WORLD_SIZE", "8"), ("MASTER_ADDR", "node1")];
        assert_eq!(
            of("", launch, &two),
            "fornax launch --nproc-per-node 4 --nnodes 2 --node-rank N --master-addr node1 train --resume '/o/my run'"
        );
        assert_eq!(
            of("--device emulated:2 --devices 0,1", Some("--devices"), &one),
            "fornax train --resume '/o/my run' --devices 0,1 --device emulated:2"
        );
    }
}
