/*
 * interrupt.c: see interrupt.h.
 */
#include "interrupt.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <time.h>
#include <unistd.h>

#include <qbase/assert.h>

enum {
    GRACE_S = 6,
    EXIT_SIGNAL_BASE = 128
};

struct watch {
    void (*stop)(void *context);
    void *context;
};

static void *wait_for_signal(void *context);
static void on_signal(int number);

static atomic_int signal_number;
static struct watch watch;

static sigset_t
signals(void)
{
    sigset_t set;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGTERM);
    return set;
}

void
interrupt_block(void)
{
    sigset_t set = signals();
    int failed = pthread_sigmask(SIG_BLOCK, &set, NULL);
    Q_ASSERT(failed == 0);
    /* A reader that went away is told by write(). */
    (void)signal(SIGPIPE, SIG_IGN);
}

void
interrupt_watch(void (*stop)(void *context), void *context)
{
    pthread_t thread;
    watch = (struct watch){ .stop = stop, .context = context };
    int failed = pthread_create(&thread, NULL, wait_for_signal, NULL);
    Q_ASSERT(failed == 0);
    (void)pthread_detach(thread);
}

static void *
wait_for_signal(void *context)
{
    (void)context;
    sigset_t set = signals();
    int number;
    if (sigwait(&set, &number) != 0) return NULL;
    atomic_store(&signal_number, number);
    watch.stop(watch.context);

    struct timespec grace = { .tv_sec = GRACE_S };
    (void)sigtimedwait(&set, NULL, &grace);
    _exit(EXIT_SIGNAL_BASE + number);
}

void
interrupt_here(void)
{
    /* Not restarted, and the second signal has its own way. */
    struct sigaction action = { .sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND };
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
    sigset_t set = signals();
    int failed = pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    Q_ASSERT(failed == 0);
}

static void
on_signal(int number)
{
    atomic_store(&signal_number, number);
}

int
interrupt_signal(void)
{
    return atomic_load(&signal_number);
}
