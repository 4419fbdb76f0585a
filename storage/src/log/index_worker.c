#include "log/index_worker.h"

#include <qbase/assert.h>

#include "log/index_mend.h"

enum {
    STACK_BYTES = 256 * 1024
};

static void *worker_run(void *context);
static void job_run(struct ql_index_build *job);

void
ql_index_worker_init(struct ql_index_worker *worker, struct qlog_io *io, bool threaded)
{
    *worker = (struct ql_index_worker){ .io = io, .threaded = threaded };
    (void)pthread_mutex_init(&worker->lock, NULL);
    (void)pthread_cond_init(&worker->news, NULL);
    (void)pthread_cond_init(&worker->idle, NULL);
}

void
ql_index_worker_stop(struct ql_index_worker *worker)
{
    (void)pthread_mutex_lock(&worker->lock);
    worker->stopping = true;
    (void)pthread_cond_signal(&worker->news);
    (void)pthread_mutex_unlock(&worker->lock);
    if (worker->started) (void)pthread_join(worker->thread, NULL);
    (void)pthread_cond_destroy(&worker->idle);
    (void)pthread_cond_destroy(&worker->news);
    (void)pthread_mutex_destroy(&worker->lock);
}

void
ql_index_worker_start(struct ql_index_worker *worker, struct ql_index_build *job)
{
    if (worker->threaded && !worker->started) {
        pthread_attr_t attributes;
        (void)pthread_attr_init(&attributes);
        (void)pthread_attr_setstacksize(&attributes, STACK_BYTES);
        worker->started = pthread_create(&worker->thread, &attributes, worker_run, worker) == 0;
        (void)pthread_attr_destroy(&attributes);
    }
    if (!worker->started) {
        /* No thread to be had, or none wanted. */
        job_run(job);
        worker->done = true;
        return;
    }
    (void)pthread_mutex_lock(&worker->lock);
    Q_ASSERT(worker->job == NULL && !worker->done);
    worker->job = job;
    (void)pthread_cond_signal(&worker->news);
    (void)pthread_mutex_unlock(&worker->lock);
}

void
ql_index_worker_wait(struct ql_index_worker *worker)
{
    (void)pthread_mutex_lock(&worker->lock);
    while (worker->job != NULL)
        (void)pthread_cond_wait(&worker->idle, &worker->lock);
    (void)pthread_mutex_unlock(&worker->lock);
}

bool
ql_index_worker_take(struct ql_index_worker *worker)
{
    (void)pthread_mutex_lock(&worker->lock);
    bool done = worker->done;
    worker->done = false;
    (void)pthread_mutex_unlock(&worker->lock);
    return done;
}

static void *
worker_run(void *context)
{
    struct ql_index_worker *worker = context;
    (void)pthread_mutex_lock(&worker->lock);
    while (!worker->stopping) {
        struct ql_index_build *job = worker->job;
        if (job == NULL) {
            (void)pthread_cond_wait(&worker->news, &worker->lock);
            continue;
        }
        (void)pthread_mutex_unlock(&worker->lock);
        job_run(job);
        (void)pthread_mutex_lock(&worker->lock);
        worker->job = NULL;
        worker->done = true;
        (void)pthread_cond_signal(&worker->idle);
        worker->io->table->wake(worker->io);
    }
    (void)pthread_mutex_unlock(&worker->lock);
    return NULL;
}

static void
job_run(struct ql_index_build *job)
{
    if (job->mend != NULL)
        ql_index_mend_run(job->mend);
    else
        ql_index_build(job);
}
