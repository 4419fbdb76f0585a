/*
 * caller.c: calls over nng's request contexts.
 *
 * An exchange carries one call: a context and an aio, which first sends the request and then
 * receives the answer. Exchanges are used again and again and live as long as their caller.
 *
 * What this rests on, from nng's source (1.5.2, req.c and aio.c):
 *   - A request waits in one queue per socket, first in, first out, until the connection takes it.
 *     The aio that sends it ends then.
 *   - With re-sending off, a lost connection ends every request that it had taken with ECONNRESET,
 *     even if nobody receives yet; what still waits in the queue stays for the next connection.
 *   - Contexts are used under our lock only, so that a cancellation meets its call in one of the
 *     two steps and never between them. Callbacks never run inside these uses.
 *   - nng's own time-outs are not used. An aio that ends while its time runs out may be cancelled a
 *     little later, when it carries another call, or after its context has been freed; and each
 *     time-out walks through all the others. So deadlines are kept here, in a heap.
 *   - A context that is in use while its socket is closed may touch freed memory. So all calls are
 *     ended before the socket is.
 *   - A connection that is closed between two reads of one message is never freed: what would begin
 *     the second read is told that it may not, and tells nobody (tcp.c, tcptran_pipe_recv_cb; the same
 *     between two parts of a write). The thread that frees connections, of which a process has one,
 *     waits for it for ever, and so does nng_close(). So a caller that is freed gives the answers of
 *     what it has sent time to come, and closes when none has ended for a while. An answer that is on
 *     its way for longer than that, a large one on a slow link, is not seen: there a little of the
 *     danger is left, that the close comes within the microseconds between two of its parts.
 */
#include <qnet/caller.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <nng/nng.h>
#include <nng/protocol/reqrep0/req.h>
#include <nng/supplemental/util/platform.h>

#include <qbase/assert.h>
#include <qbase/heap.h>
#include <qbase/list.h>

#include "endpoint.h"
#include "message.h"

enum {
    REQUEST_ID_BYTES = 4, /* nng's, before each answer */
    QUIET_MS =
        20, /* no answer has ended for so long: most likely those that are missing wait for something */
    LINGER_MS = 2000, /* for answers that come without end */
};

struct qnet_exchange {
    struct qnet_caller *caller;
    struct q_list node;          /* in caller.free */
    struct qnet_exchange *other; /* the one made before */
    nng_ctx context;
    nng_aio *aio;
    struct qnet_request *request; /* NULL: free, or abandoned */
    struct q_heap_node deadline;  /* in caller.deadlines, unless there is none */
    bool was_sent;
    bool is_cancelled;
    bool is_expired;
};

struct qnet_caller {
    char *url;
    nng_socket socket;
    void *context;
    void (*on_state)(void *context, bool connected);
    atomic_uint active; /* requests whose `done` has not ended */

    /* Held while on_state runs, so that states are told in their order. */
    pthread_mutex_t state_lock;
    int pipes; /* nng may tell the end of a connection before its begin */
    atomic_bool is_connected;

    /* Guards what follows, all exchanges, and request.exchange of all requests under way. */
    pthread_mutex_t lock;
    struct q_list free;
    struct qnet_exchange *last_made;
    struct q_heap deadlines; /* ms of nng_clock() */
    nng_aio *timer;
    bool timer_runs;
    bool stopping;
    unsigned abandoned; /* exchanges whose answer nobody waits for but qnet_caller_free() */
    bool has_dropped;   /* contexts of calls that were sent: nng drops their answers by itself */
};

/* What a thread in qnet_caller_call() waits on. */
struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool is_over;
    enum q_err err;
    struct q_fault fault;
    struct qnet_buffer *answer;
};

static enum q_err open_and_dial(
    struct qnet_caller *caller, const struct qnet_caller_options *options);
static void end_calls(struct qnet_caller *caller);
static void abandon(struct qnet_exchange *exchange);
static void let_answers_come(struct qnet_caller *caller);
static unsigned count_abandoned(struct qnet_caller *caller);
static enum q_err begin(struct qnet_caller *caller, struct qnet_request *request);
static struct qnet_exchange *take_exchange(struct qnet_caller *caller);
static struct qnet_exchange *exchange_new(struct qnet_caller *caller);
static enum q_err set_deadline(struct qnet_exchange *exchange, uint64_t timeout_ms);
static void on_timer(void *context);
static void on_pipe(nng_pipe pipe, nng_pipe_ev event, void *context);
static void on_aio(void *context);
static bool goes_on(struct qnet_exchange *exchange);
static enum q_err explain(
    const struct qnet_exchange *exchange, int nng_error, bool stopping, uint64_t timeout_ms);
static void wake_waiter(struct qnet_request *request, enum q_err err, struct qnet_buffer *answer);

enum q_err
qnet_caller_new(const struct qnet_caller_options *options, struct qnet_caller **ret_caller)
{
    Q_ASSERT(options->url != NULL);

    struct qnet_caller *caller = calloc(1, sizeof(*caller));
    if (caller == NULL) return Q_FAIL(Q_E_NOMEM, .path = options->url);

    caller->context = options->context;
    caller->on_state = options->on_state;
    q_list_init(&caller->free);
    Q_ASSERT(pthread_mutex_init(&caller->state_lock, NULL) == 0);
    Q_ASSERT(pthread_mutex_init(&caller->lock, NULL) == 0);

    enum q_err err = open_and_dial(caller, options);
    if (err != Q_OK) {
        qnet_caller_free(caller);
        return err;
    }
    *ret_caller = caller;
    return Q_OK;
}

static enum q_err
open_and_dial(struct qnet_caller *caller, const struct qnet_caller_options *options)
{
    caller->url = strdup(options->url);
    if (caller->url == NULL) return Q_FAIL(Q_E_NOMEM, .path = options->url);

    int failed = nng_aio_alloc(&caller->timer, on_timer, caller);
    if (failed == 0) failed = nng_req0_open(&caller->socket);
    if (failed == 0) {
        /* A second sending would be a second call, made by somebody who can't know what it means.
         * The timer for it would also be one global list with a lock. */
        failed = nng_socket_set_ms(caller->socket, NNG_OPT_REQ_RESENDTIME, NNG_DURATION_INFINITE);
    }
    if (failed == 0) {
        failed = nng_pipe_notify(caller->socket, NNG_PIPE_EV_ADD_POST, on_pipe, caller);
    }
    if (failed == 0) {
        failed = nng_pipe_notify(caller->socket, NNG_PIPE_EV_REM_POST, on_pipe, caller);
    }
    if (failed != 0) return qnet_endpoint_failed(failed, options->url);

    size_t message_bytes_max;
    Q_TRY(qnet_endpoint_limit(
        caller->socket, options->message_bytes_max, REQUEST_ID_BYTES, options->url,
        &message_bytes_max));
    return qnet_endpoint_dial(
        caller->socket, options->url, options->reconnect_min_ms, options->reconnect_max_ms);
}

void
qnet_caller_free(struct qnet_caller *caller)
{
    if (caller == NULL) return;

    end_calls(caller);
    while (atomic_load(&caller->active) > 0) {
        nng_msleep(1);
    }
    let_answers_come(caller);
    /* These wait for callbacks that have yet to return. */
    nng_aio_free(caller->timer);
    for (struct qnet_exchange *at = caller->last_made; at != NULL; at = at->other) {
        nng_aio_free(at->aio);
    }
    /* Closes the contexts; waits for on_pipe(). */
    if (caller->socket.id != 0) nng_close(caller->socket);

    while (caller->last_made != NULL) {
        struct qnet_exchange *exchange = caller->last_made;
        caller->last_made = exchange->other;
        free(exchange);
    }
    q_heap_fini(&caller->deadlines);
    pthread_mutex_destroy(&caller->lock);
    pthread_mutex_destroy(&caller->state_lock);
    free(caller->url);
    free(caller);
}

/* What was sent is abandoned, what was not is cancelled. No call begins any more. */
static void
end_calls(struct qnet_caller *caller)
{
    pthread_mutex_lock(&caller->lock);
    caller->stopping = true;
    for (struct qnet_exchange *at = caller->last_made; at != NULL; at = at->other) {
        if (at->request == NULL) continue;
        if (at->was_sent)
            abandon(at);
        else
            nng_aio_cancel(at->aio);
    }
    pthread_mutex_unlock(&caller->lock);
}

/* Under the lock, which is let go for `done`. The answer comes to an exchange without a request. */
static void
abandon(struct qnet_exchange *exchange)
{
    struct qnet_caller *caller = exchange->caller;
    struct qnet_request *request = exchange->request;
    exchange->request = NULL;
    request->exchange = NULL;
    request->was_sent = true;
    q_heap_remove(&caller->deadlines, &exchange->deadline);
    caller->abandoned++;
    enum q_err err = explain(exchange, 0, true, request->timeout_ms);
    pthread_mutex_unlock(&caller->lock);
    request->done(request, err, NULL);
    atomic_fetch_sub(&caller->active, 1);
    pthread_mutex_lock(&caller->lock);
}

static void
let_answers_come(struct qnet_caller *caller)
{
    unsigned before = count_abandoned(caller);
    unsigned quiet_ms = before == 0 && !caller->has_dropped ? QUIET_MS : 0;
    for (unsigned ms = 0; quiet_ms < QUIET_MS && ms < LINGER_MS; ms++) {
        nng_msleep(1);
        unsigned now = count_abandoned(caller);
        quiet_ms = now == before ? quiet_ms + 1 : 0;
        before = now;
    }
}

static unsigned
count_abandoned(struct qnet_caller *caller)
{
    pthread_mutex_lock(&caller->lock);
    unsigned count = caller->abandoned;
    pthread_mutex_unlock(&caller->lock);
    return count;
}

enum q_err
qnet_caller_submit(struct qnet_caller *caller, struct qnet_request *request)
{
    Q_ASSERT(request->buffer != NULL);
    Q_ASSERT(request->done != NULL);

    pthread_mutex_lock(&caller->lock);
    enum q_err err = begin(caller, request);
    pthread_mutex_unlock(&caller->lock);
    return err;
}

void
qnet_caller_cancel(struct qnet_caller *caller, struct qnet_request *request)
{
    pthread_mutex_lock(&caller->lock);
    if (request->exchange != NULL) {
        request->exchange->is_cancelled = true;
        nng_aio_cancel(request->exchange->aio);
    }
    pthread_mutex_unlock(&caller->lock);
}

bool
qnet_caller_is_connected(const struct qnet_caller *caller)
{
    return atomic_load(&caller->is_connected);
}

static void
on_pipe(nng_pipe pipe, nng_pipe_ev event, void *context)
{
    (void)pipe;
    struct qnet_caller *caller = context;

    pthread_mutex_lock(&caller->state_lock);
    caller->pipes += event == NNG_PIPE_EV_ADD_POST ? 1 : -1;
    bool is_connected = caller->pipes > 0;
    bool was_connected = atomic_exchange(&caller->is_connected, is_connected);
    if (is_connected != was_connected && caller->on_state != NULL) {
        caller->on_state(caller->context, is_connected);
    }
    pthread_mutex_unlock(&caller->state_lock);
}

static enum q_err
begin(struct qnet_caller *caller, struct qnet_request *request)
{
    if (caller->stopping) {
        return Q_FAIL(Q_STOPPING, .path = caller->url, .what = "this client is being stopped");
    }
    struct qnet_exchange *exchange = take_exchange(caller);
    if (exchange == NULL) return Q_FAIL(Q_E_NOMEM, .path = caller->url);
    enum q_err err = set_deadline(exchange, request->timeout_ms);
    if (err != Q_OK) {
        q_list_push_front(&caller->free, &exchange->node);
        return err;
    }

    atomic_fetch_add(&caller->active, 1);
    exchange->request = request;
    exchange->was_sent = false;
    exchange->is_cancelled = false;
    exchange->is_expired = false;
    request->exchange = exchange;
    nng_aio_set_msg(exchange->aio, qnet_buffer_message(request->buffer));
    request->buffer = NULL;
    nng_ctx_send(exchange->context, exchange->aio);
    return Q_OK;
}

static struct qnet_exchange *
take_exchange(struct qnet_caller *caller)
{
    struct q_list *node = q_list_pop_front(&caller->free);
    if (node != NULL) return q_container_of(node, struct qnet_exchange, node);
    return exchange_new(caller);
}

static struct qnet_exchange *
exchange_new(struct qnet_caller *caller)
{
    struct qnet_exchange *exchange = calloc(1, sizeof(*exchange));
    if (exchange == NULL) return NULL;
    exchange->caller = caller;
    q_list_init(&exchange->node);
    q_heap_node_init(&exchange->deadline);
    if (nng_aio_alloc(&exchange->aio, on_aio, exchange) != 0) goto err_free;
    if (nng_ctx_open(&exchange->context, caller->socket) != 0) goto err_aio;
    nng_aio_set_timeout(exchange->aio, NNG_DURATION_INFINITE);
    exchange->other = caller->last_made;
    caller->last_made = exchange;
    return exchange;

err_aio:
    nng_aio_free(exchange->aio);
err_free:
    free(exchange);
    return NULL;
}

static enum q_err
set_deadline(struct qnet_exchange *exchange, uint64_t timeout_ms)
{
    struct qnet_caller *caller = exchange->caller;
    if (timeout_ms == 0) return Q_OK;
    uint64_t deadline = nng_clock() + (uint64_t)qnet_duration(timeout_ms);
    Q_TRY(q_heap_push(&caller->deadlines, &exchange->deadline, deadline));

    if (!caller->timer_runs) {
        caller->timer_runs = true;
        nng_sleep_aio(qnet_duration(timeout_ms), caller->timer);
    } else if (q_heap_first(&caller->deadlines) == &exchange->deadline) {
        nng_aio_cancel(caller->timer); /* it sleeps too long: on_timer() sets it anew */
    }
    return Q_OK;
}

static void
on_timer(void *context)
{
    struct qnet_caller *caller = context;
    pthread_mutex_lock(&caller->lock);
    uint64_t now = nng_clock();
    struct q_heap_node *first;
    while ((first = q_heap_first(&caller->deadlines)) != NULL && first->key <= now) {
        q_heap_remove(&caller->deadlines, first);
        struct qnet_exchange *late = q_container_of(first, struct qnet_exchange, deadline);
        late->is_expired = true;
        nng_aio_cancel(late->aio);
    }
    caller->timer_runs = first != NULL && !caller->stopping;
    if (caller->timer_runs) nng_sleep_aio(qnet_duration(first->key - now), caller->timer);
    pthread_mutex_unlock(&caller->lock);
}

static void
on_aio(void *context)
{
    struct qnet_exchange *exchange = context;
    struct qnet_caller *caller = exchange->caller;
    int failed = nng_aio_result(exchange->aio);

    pthread_mutex_lock(&caller->lock);
    bool is_answer = failed == 0 && exchange->was_sent;
    if (failed == 0 && !exchange->was_sent) {
        exchange->was_sent = true;
        if (goes_on(exchange)) {
            nng_ctx_recv(exchange->context, exchange->aio);
            if (caller->stopping) abandon(exchange);
            pthread_mutex_unlock(&caller->lock);
            return;
        }
        failed = NNG_ECANCELED;
    }
    /* The answer, the request that was not sent, or nothing. */
    nng_msg *message = nng_aio_get_msg(exchange->aio);
    nng_aio_set_msg(exchange->aio, NULL);

    struct qnet_request *request = exchange->request;
    caller->has_dropped |= exchange->was_sent && !is_answer;
    if (request == NULL) {
        caller->abandoned--;
        q_list_push_front(&caller->free, &exchange->node);
        pthread_mutex_unlock(&caller->lock);
        nng_msg_free(message);
        return;
    }
    exchange->request = NULL;
    request->exchange = NULL;
    q_heap_remove(&caller->deadlines, &exchange->deadline);
    enum q_err err =
        is_answer ? Q_OK : explain(exchange, failed, caller->stopping, request->timeout_ms);
    /* A connection that is lost may have taken it before it could say so. */
    request->was_sent = exchange->was_sent || err == Q_E_CONNECTION;
    q_list_push_front(&caller->free, &exchange->node);
    pthread_mutex_unlock(&caller->lock);

    if (!is_answer) {
        nng_msg_free(message);
        message = NULL;
    }
    request->done(request, err, qnet_message_buffer(message));
    atomic_fetch_sub(&caller->active, 1);
}

static bool
goes_on(struct qnet_exchange *exchange)
{
    return !exchange->is_cancelled && !exchange->is_expired;
}

static enum q_err
explain(const struct qnet_exchange *exchange, int nng_error, bool stopping, uint64_t timeout_ms)
{
    const char *url = exchange->caller->url;
    if (exchange->is_cancelled || stopping) {
        return Q_FAIL(Q_STOPPING, .path = url, .what = "the call was cancelled");
    }
    if (exchange->is_expired && exchange->was_sent) {
        return Q_FAIL(
            Q_TIMED_OUT, .path = url,
            .what = q_text("no answer within %llu ms", (unsigned long long)timeout_ms));
    }
    if (exchange->is_expired) {
        return Q_FAIL(
            Q_UNAVAILABLE, .path = url,
            .what = q_text("not reachable within %llu ms", (unsigned long long)timeout_ms));
    }
    if (nng_error == NNG_ENOMEM) return Q_FAIL(Q_E_NOMEM, .path = url);
    return Q_FAIL(
        Q_E_CONNECTION, .path = url, .what = "the connection was lost while a call was under way");
}

enum q_err
qnet_caller_call(
    struct qnet_caller *caller,
    struct qnet_buffer *buffer,
    uint64_t timeout_ms,
    struct qnet_buffer **ret_answer)
{
    struct waiter waiter = {
        .lock = PTHREAD_MUTEX_INITIALIZER,
        .wake = PTHREAD_COND_INITIALIZER,
    };
    struct qnet_request request = {
        .buffer = buffer,
        .timeout_ms = timeout_ms,
        .done = wake_waiter,
        .context = &waiter,
    };
    enum q_err err = qnet_caller_submit(caller, &request);
    if (err != Q_OK) {
        qnet_buffer_free(buffer);
        return err;
    }

    pthread_mutex_lock(&waiter.lock);
    while (!waiter.is_over) {
        pthread_cond_wait(&waiter.wake, &waiter.lock);
    }
    pthread_mutex_unlock(&waiter.lock);
    pthread_cond_destroy(&waiter.wake);
    pthread_mutex_destroy(&waiter.lock);

    if (waiter.err == Q_OK) {
        *ret_answer = waiter.answer;
    } else {
        q_fault_adopt(&waiter.fault);
    }
    return waiter.err;
}

static void
wake_waiter(struct qnet_request *request, enum q_err err, struct qnet_buffer *answer)
{
    struct waiter *waiter = request->context;
    pthread_mutex_lock(&waiter->lock);
    waiter->is_over = true;
    waiter->err = err;
    waiter->answer = answer;
    if (err != Q_OK) waiter->fault = *q_fault_last();
    /* Under the lock: the waiter is gone as soon as it has seen is_over. */
    pthread_cond_signal(&waiter->wake);
    pthread_mutex_unlock(&waiter->lock);
}
