/*
 * read/worker.h: looks at what was read, beside the store thread: one thread, first come first served.
 *
 * The thread comes with the first job. A store over an io of its caller's (a simulated disk, a fault
 * injector) gets none: its jobs are done where they are given, so that a run can be repeated.
 *
 * Thread:   the store's; a job's `run` is called on the worker's, its `done` on the store's.
 * Blocking: _stop() waits for the job that is being done, and for no other.
 * Memory:   a job is the worker's until `done`, or until the worker has stopped.
 */
#ifndef QL_READ_WORKER_H
#define QL_READ_WORKER_H

#include <pthread.h>
#include <qbase/list.h>
#include <qlog/io.h>
#include <stdatomic.h>

struct ql_job {
    struct q_list link;
    void (*run)(struct ql_job *job);  /* on the worker's thread */
    void (*done)(struct ql_job *job); /* from ql_worker_collect() */
};

struct ql_worker {
    struct qlog_io *io; /* woken when jobs are done */
    bool threaded;
    bool started;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t news;
    /* Under the lock. */
    struct q_list todo;
    struct q_list done;
    atomic_bool stopping; /* also looked at without it */
};

void ql_worker_init(struct ql_worker *worker, struct qlog_io *io, bool threaded);
void ql_worker_stop(struct ql_worker *worker);
/* After _stop(), when nobody gives or collects any more. */
void ql_worker_fini(struct ql_worker *worker);
/* All of the list, which is empty afterwards. */
void ql_worker_give(struct ql_worker *worker, struct q_list *jobs);
/* Call `done` of the jobs that have been run. */
void ql_worker_collect(struct ql_worker *worker);
/* There is something to collect that nobody is woken for. */
bool ql_worker_is_due(const struct ql_worker *worker);

#endif /* QL_READ_WORKER_H */
