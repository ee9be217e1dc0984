//! System calls, by seccomp(2).
//!
//! What no service of this kind does is refused; everything else is allowed, so that a newer C library, or a module of its name
//! service, cannot end the daemon by a call that nobody thought of. Only what nothing but an intruder would try ends the process: starting
//! programs, other processes' memory, the kernel's modules, mounts.

use std::collections::BTreeMap;

use libc::{EAFNOSUPPORT, ENOSYS, EPERM, c_int, c_long};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

/// Ends the process.
const EVIL: &[c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_bpf,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
];

/// Refused with EPERM: some library may try it and go on without.
const REFUSED: &[c_long] = &[
    // Keys of the kernel's, and what is often used to break out.
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_fanotify_init,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_process_madvise,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    // Becoming somebody or something else.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_capset,
    libc::SYS_personality,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_chroot,
    // The machine's.
    libc::SYS_acct,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_settimeofday,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_syslog,
    libc::SYS_quotactl,
    libc::SYS_vhangup,
    libc::SYS_mknodat,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
];

/// Of one kind of processor only.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[c_long] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_mknod,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_kexec_file_load,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[c_long] = &[];

/// Filters every thread of this process.
///
/// # Errors
/// Why nothing is filtered.
pub(super) fn restrict() -> Result<(), String> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|_| format!("there is no filter for {}", std::env::consts::ARCH))?;
    for program in programs(arch).map_err(|error| error.to_string())? {
        seccompiler::apply_filter_all_threads(&program).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// One program for each way of refusing.
fn programs(arch: TargetArch) -> Result<Vec<BpfProgram>, BackendError> {
    let filter = |rules: Vec<(c_long, Vec<SeccompRule>)>, action| -> Result<BpfProgram, BackendError> {
        let rules = rules.into_iter().collect::<BTreeMap<i64, Vec<SeccompRule>>>();
        SeccompFilter::new(rules, SeccompAction::Allow, action, arch)?.try_into()
    };
    let errno = |errno: c_int| SeccompAction::Errno(errno.unsigned_abs());
    let always = |calls: &[c_long]| calls.iter().map(|call| (*call, Vec::new())).collect::<Vec<_>>();
    let mut refused = always(REFUSED);
    refused.extend(always(REFUSED_HERE));
    refused.extend(refused_by_argument()?);
    let mut programs = vec![
        filter(refused, errno(EPERM))?,
        filter(vec![(libc::SYS_socket, other_sockets()?), (libc::SYS_socketpair, other_sockets()?)], errno(EAFNOSUPPORT))?,
        // Its flags are behind a pointer, where no filter sees them. Without it, threads are made by `clone`.
        filter(always(&[libc::SYS_clone3]), errno(ENOSYS))?,
        filter(always(EVIL), SeccompAction::KillProcess)?,
    ];
    #[cfg(target_arch = "x86_64")]
    programs.push(no_x32());
    programs.shrink_to_fit();
    Ok(programs)
}

/// An unsigned argument of 32 bits that must compare like this for a rule to match.
fn argument(index: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(index, Dword, operator, value)
}

/// The bits of this mask are set, or, with `value`, are exactly so.
fn has_bits(mask: c_int, value: c_int) -> (SeccompCmpOp, u64) {
    (SeccompCmpOp::MaskedEq(u64::from(mask.unsigned_abs())), u64::from(value.unsigned_abs()))
}

/// Calls that are fine but for some arguments.
fn refused_by_argument() -> Result<Vec<(c_long, Vec<SeccompRule>)>, BackendError> {
    const DUMPABLE: u64 = 1;
    let rule = |conditions: Vec<SeccompCondition>| SeccompRule::new(conditions);
    let equal = |index, value: u64| argument(index, SeccompCmpOp::Eq, value);
    let masked = |index, mask: c_int, value: c_int| {
        let (operator, value) = has_bits(mask, value);
        argument(index, operator, value)
    };
    let executable = |index| -> Result<_, BackendError> { Ok(vec![rule(vec![masked(index, libc::PROT_EXEC, libc::PROT_EXEC)?])?]) };
    let both = libc::PROT_WRITE | libc::PROT_EXEC;
    // As `ioctl` takes it: typing into somebody's terminal.
    let typing = [libc::TIOCSTI, libc::TIOCLINUX];
    let mut typing_rules = Vec::new();
    for command in typing {
        typing_rules.push(rule(vec![equal(1, u64::from(u32::try_from(command).unwrap_or_default()))?])?);
    }
    Ok(vec![
        // A process of its own, as opposed to a thread, in whatever namespace.
        (libc::SYS_clone, vec![rule(vec![masked(0, libc::CLONE_THREAD, 0)?])?]),
        (libc::SYS_ioctl, typing_rules),
        // Memory that was written to is not executed, and the other way round. Libraries are still mapped.
        (libc::SYS_mmap, vec![rule(vec![masked(2, both, both)?])?]),
        (libc::SYS_mprotect, executable(2)?),
        (libc::SYS_pkey_mprotect, executable(2)?),
        (libc::SYS_shmat, vec![rule(vec![masked(2, libc::SHM_EXEC, libc::SHM_EXEC)?])?]),
        // The process stays unreadable for others of its user.
        (libc::SYS_prctl, vec![rule(vec![equal(0, u64::from(libc::PR_SET_DUMPABLE.unsigned_abs()))?, equal(1, DUMPABLE)?])?]),
    ])
}

/// Sockets of other families than Unix and IP; of netlink's, which `getaddrinfo` asks for the machine's addresses, all but routes.
fn other_sockets() -> Result<Vec<SeccompRule>, BackendError> {
    let number = |family: c_int| u64::from(family.unsigned_abs());
    let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
    let others = families.iter().map(|family| argument(0, SeccompCmpOp::Ne, number(*family))).collect::<Result<Vec<_>, _>>()?;
    let netlink =
        vec![argument(0, SeccompCmpOp::Eq, number(libc::AF_NETLINK))?, argument(2, SeccompCmpOp::Ne, number(libc::NETLINK_ROUTE))?];
    Ok(vec![SeccompRule::new(others)?, SeccompRule::new(netlink)?])
}

/// Refuses the calls' second set of numbers, which would go by every other rule.
#[cfg(target_arch = "x86_64")]
fn no_x32() -> BpfProgram {
    const X32: u32 = 0x4000_0000;
    let statement = |code: u32, k: u32| seccompiler::sock_filter { code: u16::try_from(code).unwrap_or_default(), jt: 0, jf: 0, k };
    let below = seccompiler::sock_filter { jf: 1, ..statement(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, X32) };
    vec![
        // The number of the call is the first thing that a filter is given.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        below,
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | ENOSYS.unsigned_abs()),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_filter_for_each_processor_that_is_known() {
        for arch in [TargetArch::x86_64, TargetArch::aarch64, TargetArch::riscv64] {
            let programs = programs(arch).unwrap();
            assert!(programs.len() >= 4 && programs.iter().all(|program| !program.is_empty()), "{arch:?}");
        }
    }

    #[test]
    fn no_call_is_refused_in_two_ways() {
        let mut calls = [EVIL, REFUSED, REFUSED_HERE].concat();
        let count = calls.len();
        calls.sort_unstable();
        calls.dedup();
        assert_eq!(calls.len(), count);
    }
}
