//! `testkit lab`: the command line.

use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use super::cluster::{DUAL, ONE, TWO};
use super::layout::{self, Layout};
use super::{Lab, Options, cloud, images, kubernetes, node};
use testkit_base::Error;

/// Arguments of `testkit lab`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Args)]
struct Which {
    /// Name of the lab.
    #[arg(long, default_value = "demo")]
    name: String,
    /// Folder of the lab [default: target/lab/NAME]
    #[arg(long)]
    dir: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Starts a lab, in place of an earlier one of the same name.
    Up {
        #[command(flatten)]
        which: Which,
        /// Hosts only.
        #[arg(long)]
        without_kubernetes: bool,
        /// Network and Kubernetes only.
        #[arg(long)]
        without_hosts: bool,
        /// Two Kubernetes nodes beside the control plane.
        #[arg(long)]
        two_nodes: bool,
        /// IPv6 before IPv4, everywhere.
        #[arg(long, conflicts_with = "two_nodes")]
        dual: bool,
        /// Enforces network policies.
        #[arg(long)]
        policies: bool,
    },
    /// Removes a lab and everything it left on the machine.
    Down {
        #[command(flatten)]
        which: Which,
        /// Copy the logs here first.
        #[arg(long)]
        keep_logs: Option<PathBuf>,
    },
    /// Lists the processes of a lab.
    Status(Which),
    /// A shell in the lab's network with kubectl at hand.
    Shell(Which),
    /// Runs a command in the lab's network, or on one of its hosts.
    Exec {
        #[command(flatten)]
        which: Which,
        /// Host: dns, ecup10, ecup10s, vngtp …
        #[arg(long)]
        host: Option<String>,
        /// The command.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Runs kubectl as the lab's administrator.
    Kubectl {
        #[command(flatten)]
        which: Which,
        /// Arguments of kubectl.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Builds the container images that changed.
    Images {
        /// A running lab that is to know them; pods take them when they are made anew.
        #[arg(long, value_name = "NAME")]
        into: Option<String>,
    },
    /// Gives LoadBalancer Services their addresses (runs inside the lab).
    #[command(hide = true)]
    Cloud {
        #[arg(long)]
        kubeconfig: PathBuf,
        /// Nodes that addresses lead to, where this namespace is none.
        #[arg(long = "node", value_name = "ADDRESS")]
        nodes: Vec<Ipv4Addr>,
    },
}

/// Runs `testkit lab`.
pub async fn run(args: Args) -> Result<(), Error> {
    match args.action {
        Action::Up {
            which,
            without_kubernetes,
            without_hosts,
            two_nodes,
            dual,
            policies,
        } => {
            let nodes = match (two_nodes, dual) {
                (true, _) => TWO,
                (_, true) => DUAL,
                _ => ONE,
            };
            let options = Options {
                name: which.name,
                dir: which.dir,
                kubernetes: !without_kubernetes,
                hosts: !without_hosts,
                nodes,
                policies,
            };
            let lab = Lab::up(&options).await?;
            println!("folder: {}", lab.dir().display());
            Ok(())
        }
        Action::Down { which, keep_logs } => {
            let began = Instant::now();
            let layout = Layout::new(&which.name, which.dir.as_deref())?;
            Lab::remove(&layout, keep_logs.as_deref()).await?;
            println!(
                "lab {}: removed in {:.1} s",
                layout.name(),
                began.elapsed().as_secs_f64()
            );
            Ok(())
        }
        Action::Status(which) => status(&attach(&which)?),
        Action::Shell(which) => shell(&attach(&which)?),
        Action::Exec { which, host, command } => {
            let mut words = attach(&which)?.place(host.as_deref()).prefix();
            words.extend(command);
            become_command(&words, &[])
        }
        Action::Kubectl { which, arguments } => {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            become_command(&kubernetes::kubectl(attach(&which)?.layout(), &arguments)?, &[])
        }
        Action::Images { into } => {
            let began = Instant::now();
            let archives = images::build().await?;
            if let Some(name) = into {
                let lab = Lab::attach(&name, None)?;
                for node in node::running(lab.layout()) {
                    for archive in &archives {
                        node::import(lab.layout(), node, archive).await?;
                    }
                }
            }
            println!("{} images in {:.1} s", archives.len(), began.elapsed().as_secs_f64());
            Ok(())
        }
        Action::Cloud { kubeconfig, nodes } => cloud::serve(&kubeconfig, nodes).await,
    }
}

fn attach(which: &Which) -> Result<Lab, Error> {
    Lab::attach(&which.name, which.dir.as_deref())
}

fn status(lab: &Lab) -> Result<(), Error> {
    println!("lab {} in {}", lab.layout().name(), lab.dir().display());
    let mut ended = Vec::new();
    for (record, alive) in lab.processes()? {
        println!(
            "{:<24} {:>8}  {}",
            record.name,
            record.pid,
            if alive { "running" } else { "ended" }
        );
        if !alive {
            ended.push(record.name);
        }
    }
    if ended.is_empty() {
        Ok(())
    } else {
        Err(format!("ended: {}", ended.join(", ")).into())
    }
}

fn shell(lab: &Lab) -> Result<(), Error> {
    let name = lab.layout().name();
    // A prompt of its own, after whatever the user's files set.
    let rc = lab.dir().join("bashrc");
    std::fs::write(
        &rc,
        format!("[ -f ~/.bashrc ] && . ~/.bashrc\nPS1='[lab {name}] \\w \\$ '\n"),
    )?;
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", layout::tools_dir().display());
    let kubeconfig = lab.kubeconfig().display().to_string();
    let mut words = lab.place(None).prefix();
    words.extend(["bash".to_owned(), "--rcfile".to_owned(), rc.display().to_string()]);
    println!(
        "A shell in the lab's network. Try: kubectl get pods -A; logs are in {}",
        lab.layout().logs_dir().display()
    );
    become_command(&words, &[("KUBECONFIG", &kubeconfig), ("PATH", &path)])
}

/// Replaces this process: terminal, signals and exit status are the command's.
fn become_command(words: &[String], environment: &[(&str, &str)]) -> Result<(), Error> {
    let (program, arguments) = words.split_first().ok_or("an empty command cannot be run")?;
    let error = Command::new(program)
        .args(arguments)
        .envs(environment.iter().copied())
        .exec();
    Err(format!("{program}: {error}").into())
}
