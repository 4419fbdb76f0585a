/*
 * delay.c: put the delay role together, take it apart.
 *
 *   start: sender, store thread (recovers), listener, registrar
 *   stop:  gate closed (new calls: STOPPING), registrar, calls under way answered, the store's loop
 *          ended, the sender's requests given back, store closed, listener
 */
#include "delay/delay.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <qbase/clock.h>

#include "delay/call.h"

enum {
    STOP_PATIENCE_MS = 5000
};

static enum q_err start_store(struct delay *delay);
static enum q_err start_listener(struct delay *delay);
static enum q_err start_registrar(struct delay *delay);
static void on_opened(void *context, struct qlog_delay *store);
static void on_registered(void *context);
static void on_store_failed(void *context, const struct q_fault *fault);

enum q_err
delay_start(const struct delay_options *options, struct delay **ret_delay)
{
    struct delay *delay = calloc(1, sizeof(*delay));
    if (!delay) return Q_FAIL(Q_E_NOMEM);
    delay->options = *options;
    (void)snprintf(delay->node_id, sizeof(delay->node_id), "%s.delay", options->node_id);
    enum q_err err = delay_sender_new(options->meta_url, &delay->sender);
    if (err == Q_OK) err = start_store(delay);
    if (err == Q_OK) err = start_listener(delay);
    if (err == Q_OK) err = start_registrar(delay);
    if (err != Q_OK) {
        struct q_fault fault = *q_fault_last();
        enum q_err stop_err = delay_stop(delay);
        (void)stop_err; /* the first failure is the one to tell */
        q_fault_adopt(&fault);
        return err;
    }
    *ret_delay = delay;
    return Q_OK;
}

static enum q_err
start_store(struct delay *delay)
{
    struct delay_store_options options = {
        .directory = delay->options.directory,
        .store = delay->options.store,
        .context = delay,
        .on_opened = on_opened,
        .on_failed = on_store_failed,
    };
    options.store.sender = delay_sender_table(delay->sender);
    return delay_store_open(&options, &delay->store);
}

static void
on_opened(void *context, struct qlog_delay *store)
{
    struct delay *delay = context;
    delay_sender_attach(delay->sender, store);
}

static enum q_err
start_listener(struct delay *delay)
{
    const struct srv_listener_options options = {
        .url = delay->options.url,
        .role = "delay",
        .roles = delay->options.roles,
        .program = delay->options.program,
        .node_id = delay->options.node_id,
        .ops = delay_ops,
        .op_count = delay_op_count,
        .context = delay,
    };
    return srv_listener_new(&options, &delay->listener);
}

static enum q_err
start_registrar(struct delay *delay)
{
    srv_url_dial(
        delay_url(delay), delay->options.advertise, delay->address, sizeof(delay->address));
    const struct srv_registrar_options options = {
        .meta_url = delay->options.meta_url,
        .node_id = delay->node_id,
        .cluster = delay->options.cluster,
        .broker_group = delay->options.delay_group,
        .role = "delay",
        .address = delay->address,
        .version = delay->options.version,
        .context = delay,
        .on_registered = on_registered,
    };
    return srv_registrar_new(&options, &delay->registrar);
}

static void
on_registered(void *context)
{
    struct delay *delay = context;
    if (delay->options.on_ready) delay->options.on_ready(delay->options.context);
}

static void
on_store_failed(void *context, const struct q_fault *fault)
{
    struct delay *delay = context;
    atomic_store(&delay->has_failed, true);
    if (delay->options.on_failed) delay->options.on_failed(delay->options.context, fault);
}

/* What is under way gets its true answer, unless the store can't give any. */
static void
wait_for_calls(struct delay *delay)
{
    for (int ms = 0; ms < STOP_PATIENCE_MS; ms++) {
        if (atomic_load(&delay->has_failed) || atomic_load(&delay->call_count) == 0) return;
        const struct timespec moment = { .tv_nsec = Q_NS_PER_MS };
        (void)nanosleep(&moment, NULL);
    }
}

enum q_err
delay_stop(struct delay *delay)
{
    enum q_err err = Q_OK;
    struct q_fault fault = { .err = Q_OK };
    srv_gate_close(&delay->gate);
    srv_registrar_free(delay->registrar);
    if (delay->store) {
        wait_for_calls(delay);
        delay_store_stop(delay->store);
        delay_sender_stop(delay->sender);
        err = delay_store_close(delay->store);
        fault = *q_fault_last();
    }
    delay_sender_free(delay->sender);
    srv_listener_free(delay->listener);
    free(delay);
    if (err != Q_OK) q_fault_adopt(&fault);
    return err;
}

const char *
delay_url(const struct delay *delay)
{
    return srv_listener_url(delay->listener);
}
