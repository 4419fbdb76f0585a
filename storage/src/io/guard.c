#include <qlog/guard.h>

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <ucontext.h>

/* Where this thread goes on when a page can't be had. */
static _Thread_local sigjmp_buf *guard_way_out;
static struct sigaction guard_before;

static void
guard_on_sigbus(int number, siginfo_t *info, void *ucontext)
{
    if (guard_way_out != NULL) {
        /* Leaving by a jump skips the kernel's restoring of the mask. To save and restore it with the
         * jump would cost each read that succeeds a system call. */
        (void)pthread_sigmask(SIG_SETMASK, &((const ucontext_t *)ucontext)->uc_sigmask, NULL);
        siglongjmp(*guard_way_out, 1);
    }
    if (guard_before.sa_flags & SA_SIGINFO) {
        guard_before.sa_sigaction(number, info, ucontext);
    } else if (guard_before.sa_handler != SIG_DFL && guard_before.sa_handler != SIG_IGN) {
        guard_before.sa_handler(number);
    } else {
        /* The access is made again when this returns, and ends the process as it should. */
        (void)signal(number, SIG_DFL);
    }
}

static void
guard_install(void)
{
    struct sigaction action = {
        .sa_sigaction = guard_on_sigbus,
        .sa_flags = SA_SIGINFO | SA_ONSTACK,
    };
    (void)sigemptyset(&action.sa_mask);
    (void)sigaction(SIGBUS, &action, &guard_before);
}

enum q_err
qlog_guard(enum q_err (*read)(void *context), void *context)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, guard_install);
    sigjmp_buf here;
    sigjmp_buf *outer = guard_way_out;
    if (sigsetjmp(here, 0) != 0) {
        guard_way_out = outer;
        return Q_FAIL(
            Q_E_IO, .what = "the disk does not give a page of a mapped file",
            .hint = "check the disk and the kernel's log; run: qlog verify DIR");
    }
    guard_way_out = &here;
    enum q_err err = read(context);
    guard_way_out = outer;
    return err;
}

struct guarded_copy {
    void *to;
    const void *from;
    size_t size;
};

static enum q_err
guard_do_copy(void *context)
{
    const struct guarded_copy *copy = context;
    memcpy(copy->to, copy->from, copy->size);
    return Q_OK;
}

enum q_err
qlog_guard_copy(void *to, const void *from, size_t size)
{
    struct guarded_copy copy = { .to = to, .from = from, .size = size };
    return qlog_guard(guard_do_copy, &copy);
}
