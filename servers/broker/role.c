/*
 * role.c: a node starts and stops a broker.
 */
#include "broker/role.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "broker/broker.h"
#include "common/home.h"

/* What a broker's callbacks need for as long as it runs. */
struct role_state {
    struct srv_node *node;
    struct broker *broker;
    char directory[PATH_MAX];
};

static void on_ready(void *context);
static void on_failed(void *context, const struct q_fault *fault);

static enum q_err
role_start(struct srv_node *node, void **ret_state)
{
    const struct srv_node_view *view = srv_node_view(node);
    struct role_state *state = calloc(1, sizeof(*state));
    if (!state) return Q_FAIL(Q_E_NOMEM);
    state->node = node;
    /* The store makes it, and says what is wrong with it. */
    (void)snprintf(state->directory, sizeof(state->directory), "%s/broker", view->directory);

    const struct broker_options options = {
        .directory = state->directory,
        .url = view->url,
        .one_way_url = view->one_way_url,
        .advertise = view->advertise,
        .meta_url = view->meta_url,
        .node_id = view->node_id,
        .cluster = view->cluster,
        .broker_group = view->broker_group,
        .program = view->program,
        .version = view->version,
        .roles = view->roles,
        .store = {
            .mode = view->storage.async ? QLOG_MODE_ASYNC : QLOG_MODE_SYNC,
            .log = { .create = true, .segment_bytes = view->storage.segment_bytes },
            .memory_max = view->storage.memory_max,
            .group_bytes_max = view->storage.group_bytes_max,
            .subjects_max = (uint32_t)view->storage.subjects_max,
            .retention_ms = view->storage.retention_ns / Q_NS_PER_MS,
            .retention_bytes = view->storage.retention_bytes,
            .retention_consumed = view->storage.keep_unconsumed,
            .disk_soft_bytes = view->storage.disk_soft_bytes,
            .disk_hard_bytes = view->storage.disk_hard_bytes,
        },
        .archive = view->storage.archive,
        .context = state,
        .on_ready = on_ready,
        .on_failed = on_failed,
    };
    enum q_err err = broker_start(&options, &state->broker);
    if (err != Q_OK) {
        free(state);
        return err;
    }
    srv_node_tell(
        node, "durability",
        view->storage.async ? "async: a publish is acknowledged when it is written; power loss may "
                              "take the last 200 ms"
                            : "sync: a publish is acknowledged after it is flushed");
    srv_node_tell(node, "io", broker_io_text(state->broker));
    *ret_state = state;
    return Q_OK;
}

static void
on_ready(void *context)
{
    struct role_state *state = context;
    srv_node_ready(state->node);
}

static void
on_failed(void *context, const struct q_fault *fault)
{
    struct role_state *state = context;
    struct q_fault broken = *fault;
    /* Whatever it was to the disk, to the process it is this. */
    broken.err = Q_E_BROKEN;
    srv_node_failed(state->node, &broken);
}

static enum q_err
role_stop(void *any_state)
{
    struct role_state *state = any_state;
    enum q_err err = broker_stop(state->broker);
    free(state);
    return err;
}

static const char *
role_url(void *any_state)
{
    const struct role_state *state = any_state;
    return broker_url(state->broker);
}

const struct srv_role broker_role = {
    .name = "broker",
    .port_offset = 1,
    .one_way_port_offset = 3,
    .start = role_start,
    .stop = role_stop,
    .url = role_url,
};
