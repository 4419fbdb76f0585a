#include "read/worker.h"

enum {
    STACK_BYTES = 128 * 1024
};

static bool worker_start(struct ql_worker *worker);
static void *worker_run(void *context);

void
ql_worker_init(struct ql_worker *worker, struct qlog_io *io, bool threaded)
{
    *worker = (struct ql_worker){ .io = io, .threaded = threaded };
    q_list_init(&worker->todo);
    q_list_init(&worker->done);
    (void)pthread_mutex_init(&worker->lock, NULL);
    (void)pthread_cond_init(&worker->news, NULL);
}

void
ql_worker_stop(struct ql_worker *worker)
{
    (void)pthread_mutex_lock(&worker->lock);
    atomic_store_explicit(&worker->stopping, true, memory_order_relaxed);
    (void)pthread_cond_signal(&worker->news);
    (void)pthread_mutex_unlock(&worker->lock);
    if (worker->started) (void)pthread_join(worker->thread, NULL);
}

void
ql_worker_fini(struct ql_worker *worker)
{
    (void)pthread_cond_destroy(&worker->news);
    (void)pthread_mutex_destroy(&worker->lock);
}

void
ql_worker_give(struct ql_worker *worker, struct q_list *jobs)
{
    if (q_list_is_empty(jobs)) return;
    if (worker->stopping || !worker_start(worker)) {
        /* No thread to be had, or none wanted, or there was one: reads end after it. */
        struct q_list *link;
        while ((link = q_list_pop_front(jobs)) != NULL) {
            struct ql_job *job = q_container_of(link, struct ql_job, link);
            job->run(job);
            q_list_push_back(&worker->done, link);
        }
        return;
    }
    (void)pthread_mutex_lock(&worker->lock);
    if (q_list_is_empty(&worker->todo)) (void)pthread_cond_signal(&worker->news);
    q_list_splice_back(&worker->todo, jobs);
    (void)pthread_mutex_unlock(&worker->lock);
}

static bool
worker_start(struct ql_worker *worker)
{
    if (!worker->threaded || worker->started) return worker->started;
    pthread_attr_t attributes;
    (void)pthread_attr_init(&attributes);
    (void)pthread_attr_setstacksize(&attributes, STACK_BYTES);
    worker->started = pthread_create(&worker->thread, &attributes, worker_run, worker) == 0;
    (void)pthread_attr_destroy(&attributes);
    return worker->started;
}

void
ql_worker_collect(struct ql_worker *worker)
{
    struct q_list jobs;
    q_list_init(&jobs);
    (void)pthread_mutex_lock(&worker->lock);
    q_list_splice_back(&jobs, &worker->done);
    (void)pthread_mutex_unlock(&worker->lock);
    struct q_list *link;
    while ((link = q_list_pop_front(&jobs)) != NULL) {
        struct ql_job *job = q_container_of(link, struct ql_job, link);
        job->done(job);
    }
}

bool
ql_worker_is_due(const struct ql_worker *worker)
{
    return !worker->started && !q_list_is_empty(&worker->done);
}

static void *
worker_run(void *context)
{
    struct ql_worker *worker = context;
    (void)pthread_mutex_lock(&worker->lock);
    struct q_list jobs;
    struct q_list done;
    q_list_init(&jobs);
    q_list_init(&done);
    while (!worker->stopping) {
        if (q_list_is_empty(&worker->todo)) {
            (void)pthread_cond_wait(&worker->news, &worker->lock);
            continue;
        }
        q_list_splice_back(&jobs, &worker->todo);
        (void)pthread_mutex_unlock(&worker->lock);
        struct q_list *link;
        while ((link = q_list_pop_front(&jobs)) != NULL) {
            struct ql_job *job = q_container_of(link, struct ql_job, link);
            job->run(job);
            q_list_push_back(&done, link);
            if (atomic_load_explicit(&worker->stopping, memory_order_relaxed)) break;
        }
        (void)pthread_mutex_lock(&worker->lock);
        /* What came together goes back together: who waits for it finds all of it. */
        q_list_splice_back(&worker->done, &done);
        worker->io->table->wake(worker->io);
    }
    (void)pthread_mutex_unlock(&worker->lock);
    return NULL;
}
