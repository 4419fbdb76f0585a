/*
 * log/index_worker.h: sorts entries, or reads a segment, beside the store thread: one job at a time, on
 * a thread of its own.
 *
 * The thread comes with the first job. A store over an io of its caller's (a simulated disk, a fault
 * injector) gets none: its jobs are done where they are started, so that a run can be repeated.
 *
 * Thread: the store's. Blocking: _stop() waits for the job.
 */
#ifndef QL_LOG_INDEX_WORKER_H
#define QL_LOG_INDEX_WORKER_H

#include <pthread.h>
#include <qlog/io.h>

#include "log/index_build.h"

struct ql_index_worker {
    struct qlog_io *io; /* woken when a job is done */
    bool threaded;
    bool started;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t news;
    pthread_cond_t idle;
    /* Under the lock. */
    struct ql_index_build *job;
    bool done;
    bool stopping;
};

void ql_index_worker_init(struct ql_index_worker *worker, struct qlog_io *io, bool threaded);
void ql_index_worker_stop(struct ql_index_worker *worker);
/* No job is under way. `job`, and all it reads, is the worker's until it is done. */
void ql_index_worker_start(struct ql_index_worker *worker, struct ql_index_build *job);
/* Until the job, if there is one, is done. */
void ql_index_worker_wait(struct ql_index_worker *worker);
/* True once for each job that is done. */
bool ql_index_worker_take(struct ql_index_worker *worker);

#endif /* QL_LOG_INDEX_WORKER_H */
