//! What the machine (or the container around us) lets this process use.

use super::fail;
use std::fs;
use std::path::Path;

/// Cores that this process may use: affinity mask and CPU quota of the cgroup included.
pub(crate) fn usable_cores() -> usize {
    let known = fail::attempt("sched_getaffinity")
        .map_err(std::io::Error::from)
        .and_then(|()| std::thread::available_parallelism());
    known.map_or(1, usize::from)
}

/// Bytes of memory that this process may use: the smallest limit of its cgroups (version 1 and 2)
/// and the physical memory.
pub(crate) fn usable_memory_bytes() -> u64 {
    let physical = rustix::system::sysinfo();
    let physical = (physical.totalram as u64).saturating_mul(u64::from(physical.mem_unit));
    // Who cannot read its limits goes by the memory that there is.
    let groups = read("/proc/self/cgroup".as_ref()).unwrap_or_default();
    groups.lines().filter_map(cgroup_limit).fold(physical, u64::min)
}

fn read(path: &Path) -> Option<String> {
    fail::attempt("open").ok()?;
    fs::read_to_string(path).ok()
}

/// The limit that one line of `/proc/self/cgroup` (`id:controllers:path`) leads to.
fn cgroup_limit(line: &str) -> Option<u64> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?);
    let candidates: &[(&str, &str)] = if controllers.is_empty() {
        &[("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/unified", "memory.max")]
    } else if controllers.split(',').any(|controller| controller == "memory") {
        &[("/sys/fs/cgroup/memory", "memory.limit_in_bytes")]
    } else {
        return None;
    };
    candidates.iter().filter_map(|(root, file)| limit_up_to_root(Path::new(root), path, file)).min()
}

/// A limit anywhere between the group and the root holds. Inside a container the path may be the
/// host's and not exist here; the walk then ends at the root, which is the container's own group.
fn limit_up_to_root(root: &Path, path: &str, file: &str) -> Option<u64> {
    let group = root.join(path.trim_start_matches('/'));
    group
        .ancestors()
        .take_while(|folder| folder.starts_with(root))
        .filter_map(|folder| read(&folder.join(file))?.trim().parse().ok())
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_ancestor_wins() {
        let root = tempfile::tempdir().unwrap();
        let leaf = root.path().join("a/b");
        fs::create_dir_all(&leaf).unwrap();
        fs::write(root.path().join("a/memory.max"), "4096\n").unwrap();
        fs::write(leaf.join("memory.max"), "max\n").unwrap();
        assert_eq!(limit_up_to_root(root.path(), "/a/b", "memory.max"), Some(4096));
        assert_eq!(limit_up_to_root(root.path(), "/not/here", "memory.max"), None);
    }

    #[test]
    fn memory_is_never_zero() {
        assert!(usable_memory_bytes() > 1 << 20);
    }
}
