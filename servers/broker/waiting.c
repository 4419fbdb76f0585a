/*
 * waiting.c: the table, and the way of a cancel.
 */
#include "broker/waiting.h"

#include <time.h>

#include <qbase/assert.h>
#include <qbase/clock.h>

#include "broker/store_thread.h"

static struct q_list *bucket_of(struct broker *broker, uint64_t connection);
static void cancel(struct broker_request *request);
static void run_cancel(struct srv_job *job);
static bool submit_cancel(struct broker_request *request);
static void on_cancel_done(struct qlog_request *store_request, enum q_err err);
static void run_cancel_over(struct srv_job *job);

void
broker_waiting_init(struct broker *broker)
{
    Q_ASSERT(pthread_mutex_init(&broker->waiting.lock, NULL) == 0);
    for (int i = 0; i < BROKER_WAITING_BUCKETS; i++) {
        q_list_init(&broker->waiting.buckets[i]);
    }
}

void
broker_waiting_fini(struct broker *broker)
{
    for (int i = 0; i < BROKER_WAITING_BUCKETS; i++)
        Q_ASSERT(q_list_is_empty(&broker->waiting.buckets[i]));
    pthread_mutex_destroy(&broker->waiting.lock);
}

void
broker_waiting_enter(struct broker_request *request)
{
    struct broker *broker = request->broker;
    request->connection = qnet_call_connection(request->call);
    request->may_wait = true;
    pthread_mutex_lock(&broker->waiting.lock);
    q_list_push_back(bucket_of(broker, request->connection), &request->waiting);
    pthread_mutex_unlock(&broker->waiting.lock);
}

bool
broker_waiting_leave(struct broker_request *request)
{
    struct broker *broker = request->broker;
    if (!request->may_wait) return false;
    pthread_mutex_lock(&broker->waiting.lock);
    q_list_remove(&request->waiting);
    bool is_cancelled = request->cancelled;
    pthread_mutex_unlock(&broker->waiting.lock);
    return is_cancelled;
}

void
broker_on_gone(void *context, uint64_t connection)
{
    struct broker *broker = context;
    pthread_mutex_lock(&broker->waiting.lock);
    q_list_for_each(at, bucket_of(broker, connection)) {
        struct broker_request *request = q_container_of(at, struct broker_request, waiting);
        if (request->connection == connection) cancel(request);
    }
    pthread_mutex_unlock(&broker->waiting.lock);
}

void
broker_waiting_end_all(struct broker *broker)
{
    pthread_mutex_lock(&broker->waiting.lock);
    for (int i = 0; i < BROKER_WAITING_BUCKETS; i++) {
        q_list_for_each(at, &broker->waiting.buckets[i]) {
            cancel(q_container_of(at, struct broker_request, waiting));
        }
    }
    pthread_mutex_unlock(&broker->waiting.lock);
}

static struct q_list *
bucket_of(struct broker *broker, uint64_t connection)
{
    return &broker->waiting.buckets[connection % BROKER_WAITING_BUCKETS];
}

/* Under the lock. */
static void
cancel(struct broker_request *request)
{
    if (request->cancelled) return;
    request->cancelled = true;
    request->cancel.run = run_cancel;
    enum q_err err = srv_worker_post(request->broker->answerer, &request->cancel);
    Q_ASSERT(err == Q_OK); /* it has room for a cancel of every request there can be */
}

/* ANSWER */
static void
run_cancel(struct srv_job *job)
{
    struct broker_request *request = q_container_of(job, struct broker_request, cancel);
    if (request->is_finished) {
        broker_request_give_back(request);
        return;
    }
    if (!submit_cancel(request)) request->is_cancel_over = true;
}

/* False: the store is being closed, which ends the pull, too. */
static bool
submit_cancel(struct broker_request *request)
{
    struct broker *broker = request->broker;
    request->cancel_request = (struct qlog_cancel){
        .request = { .kind = QLOG_CANCEL, .done = on_cancel_done, .context = request },
        .target = &request->store.pull,
    };
    for (;;) {
        if (!srv_gate_enter(&broker->store_gate)) return false;
        enum q_err err = broker_store_submit(broker->store, &request->cancel_request.request);
        srv_gate_leave(&broker->store_gate);
        if (err != Q_BUSY) return err == Q_OK;
        /* The store empties its mailbox whatever we do, so this ends soon. */
        const struct timespec moment = { .tv_nsec = Q_NS_PER_MS };
        (void)nanosleep(&moment, NULL);
    }
}

/* STORE: after the `done` of the pull itself. */
static void
on_cancel_done(struct qlog_request *store_request, enum q_err err)
{
    (void)err; /* cancelled, or finished before: both is fine */
    struct broker_request *request = store_request->context;
    request->cancel.run = run_cancel_over;
    enum q_err post_err = srv_worker_post(request->broker->answerer, &request->cancel);
    Q_ASSERT(post_err == Q_OK);
}

/* ANSWER */
static void
run_cancel_over(struct srv_job *job)
{
    struct broker_request *request = q_container_of(job, struct broker_request, cancel);
    request->is_cancel_over = true;
    if (request->is_finished) broker_request_give_back(request);
}
