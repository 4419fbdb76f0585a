/*
 * common/worker.h: a thread that does what it is sent, in order.
 *
 * What may block, or belongs to one thread, is put into a job and posted. The jobs of one wake-up
 * are run together; between them the worker looks at its clock.
 *
 * Thread:   srv_worker_post(): any. _stop(): not the worker itself.
 * Blocking: post never. A job may.
 * Memory:   a job is its poster's; it is the worker's until `run` has been entered.
 */
#ifndef SRV_COMMON_WORKER_H
#define SRV_COMMON_WORKER_H

#include <qbase/err.h>
#include <qbase/list.h>

struct srv_worker;
struct srv_job;

typedef void srv_job_fn(struct srv_job *job);

struct srv_job {
    struct q_mailbox_node node;
    srv_job_fn *run;
};

#define SRV_WORKER_NO_DEADLINE UINT64_MAX

struct srv_worker_options {
    const char *name; /* of the thread, at most 15 characters */
    unsigned jobs_max;
    void *context;
    /*
     * Runs on the worker after each round of jobs, and when its time has come. Does what is due and
     * returns the monotonic time of the next deadline. NULL: there are none.
     */
    uint64_t (*on_turn)(void *context);
};

Q_MUST_CHECK enum q_err srv_worker_start(
    const struct srv_worker_options *options, struct srv_worker **ret_worker);
/* Runs what was posted before, then ends the thread. Nothing may be posted after. NULL is fine. */
void srv_worker_stop(struct srv_worker *worker);

/* Q_OK, or Q_BUSY: jobs_max are waiting; the job stays the caller's. */
Q_MUST_CHECK enum q_err srv_worker_post(struct srv_worker *worker, struct srv_job *job);

#endif /* SRV_COMMON_WORKER_H */
