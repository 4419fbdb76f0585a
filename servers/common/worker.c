/*
 * worker.c: a mailbox, an eventfd to sleep on, and the loop around them.
 */
#include "common/worker.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <qbase/assert.h>
#include <qbase/clock.h>
#include <qbase/mailbox.h>

struct srv_worker {
    struct srv_worker_options options;
    pthread_t thread;
    int wake_file;
    struct q_mailbox mailbox;
    struct srv_job stop_job;

    /* The worker's own. */
    bool stopping;
};

static void *worker_main(void *argument);
static void run_jobs(struct srv_worker *worker);
static void sleep_until(struct srv_worker *worker, uint64_t deadline_ns);
static void run_stop(struct srv_job *job);
static void wake(struct srv_worker *worker);

enum q_err
srv_worker_start(const struct srv_worker_options *options, struct srv_worker **ret_worker)
{
    struct srv_worker *worker = calloc(1, sizeof(*worker));
    if (!worker) return Q_FAIL(Q_E_NOMEM);

    worker->options = *options;
    q_mailbox_init(&worker->mailbox, options->jobs_max);
    worker->stop_job.run = run_stop;
    worker->wake_file = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (worker->wake_file < 0) {
        int error = errno;
        free(worker);
        return Q_FAIL(q_err_from_errno(error), .sys = error, .what = "eventfd");
    }

    int error = pthread_create(&worker->thread, NULL, worker_main, worker);
    if (error) {
        close(worker->wake_file);
        free(worker);
        return Q_FAIL(q_err_from_errno(error), .sys = error, .what = "a thread can't be started");
    }
    *ret_worker = worker;
    return Q_OK;
}

static void *
worker_main(void *argument)
{
    struct srv_worker *worker = argument;
    (void)pthread_setname_np(pthread_self(), worker->options.name);

    while (!worker->stopping) {
        run_jobs(worker);
        uint64_t deadline_ns = SRV_WORKER_NO_DEADLINE;
        if (worker->options.on_turn) deadline_ns = worker->options.on_turn(worker->options.context);
        if (!worker->stopping) sleep_until(worker, deadline_ns);
    }
    return NULL;
}

static void
run_jobs(struct srv_worker *worker)
{
    struct q_mailbox_node *node = q_mailbox_take(&worker->mailbox);
    while (node) {
        struct q_mailbox_node *next = node->next;
        struct srv_job *job = q_container_of(node, struct srv_job, node);
        job->run(job);
        node = next;
    }
}

static void
sleep_until(struct srv_worker *worker, uint64_t deadline_ns)
{
    if (q_mailbox_sleep(&worker->mailbox)) {
        struct timespec time_left;
        struct timespec *timeout = NULL;
        if (deadline_ns != SRV_WORKER_NO_DEADLINE) {
            uint64_t now_ns = q_clock_monotonic_ns(q_clock_system());
            uint64_t left_ns = deadline_ns > now_ns ? deadline_ns - now_ns : 0;
            time_left.tv_sec = (time_t)(left_ns / Q_NS_PER_S);
            time_left.tv_nsec = (long)(left_ns % Q_NS_PER_S);
            timeout = &time_left;
        }
        struct pollfd wait_for = { .fd = worker->wake_file, .events = POLLIN };
        if (ppoll(&wait_for, 1, timeout, NULL) > 0) {
            uint64_t count;
            ssize_t length = read(worker->wake_file, &count, sizeof(count));
            (void)length; /* the number says nothing; the mailbox does */
        }
    }
    q_mailbox_awake(&worker->mailbox);
}

enum q_err
srv_worker_post(struct srv_worker *worker, struct srv_job *job)
{
    bool must_wake;
    Q_TRY(q_mailbox_push(&worker->mailbox, &job->node, &must_wake));
    if (must_wake) wake(worker);
    return Q_OK;
}

void
srv_worker_stop(struct srv_worker *worker)
{
    if (!worker) return;

    while (srv_worker_post(worker, &worker->stop_job) == Q_BUSY)
        sched_yield();
    Q_ASSERT(pthread_join(worker->thread, NULL) == 0);
    close(worker->wake_file);
    q_mailbox_fini(&worker->mailbox);
    free(worker);
}

static void
run_stop(struct srv_job *job)
{
    q_container_of(job, struct srv_worker, stop_job)->stopping = true;
}

static void
wake(struct srv_worker *worker)
{
    uint64_t one = 1;
    /* Can only fail when it is awake many times over. */
    ssize_t length = write(worker->wake_file, &one, sizeof(one));
    (void)length;
}
