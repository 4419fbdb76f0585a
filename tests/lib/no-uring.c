/*
 * no-uring.c: run a program where io_uring is refused, as in many containers.
 *
 *   no-uring [--errno EPERM|ENOSYS] PROGRAM [ARGUMENT…]
 *
 * A seccomp filter answers io_uring_setup with EPERM (what container runtimes do) or ENOSYS (what
 * an old kernel does). The program and everything it starts inherit it.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int
main(int argc, char **argv)
{
    unsigned refusal = EPERM;
    int first = 1;

    if (argc > 2 && strcmp(argv[1], "--errno") == 0) {
        refusal = strcmp(argv[2], "ENOSYS") == 0 ? ENOSYS : EPERM;
        first = 3;
    }
    if (first >= argc) {
        fputs("usage: no-uring [--errno EPERM|ENOSYS] PROGRAM [ARGUMENT…]\n", stderr);
        return 2;
    }

    /* The number is the same on every architecture, so the architecture need not be looked at. */
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | refusal),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { .len = sizeof(code) / sizeof(code[0]), .filter = code };

    /* Without new privileges a filter may be installed by anybody. */
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
    {
        perror("no-uring: seccomp");
        return 125;
    }
    execvp(argv[first], argv + first);
    perror(argv[first]);
    return 127;
}
