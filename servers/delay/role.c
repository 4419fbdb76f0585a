/*
 * role.c: a node starts and stops a delay store.
 */
#include "delay/role.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/home.h"
#include "delay/delay.h"

/* What the callbacks need for as long as it runs. */
struct role_state {
    struct srv_node *node;
    struct delay *delay;
    char directory[PATH_MAX];
    char group[128];
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
    (void)snprintf(state->directory, sizeof(state->directory), "%s/delay", view->directory);
    (void)snprintf(state->group, sizeof(state->group), "%s.delay", view->broker_group);
    const struct delay_options options = {
        .directory = state->directory,
        .url = view->url,
        .advertise = view->advertise,
        .meta_url = view->meta_url,
        .node_id = view->node_id,
        .cluster = view->cluster,
        .delay_group = state->group,
        .program = view->program,
        .version = view->version,
        .roles = view->roles,
        .store = { .log = { .create = true, .segment_bytes = view->storage.segment_bytes } },
        .context = state,
        .on_ready = on_ready,
        .on_failed = on_failed,
    };
    enum q_err err = delay_start(&options, &state->delay);
    if (err != Q_OK) {
        free(state);
        return err;
    }
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
    enum q_err err = delay_stop(state->delay);
    free(state);
    return err;
}

static const char *
role_url(void *any_state)
{
    const struct role_state *state = any_state;
    return delay_url(state->delay);
}

const struct srv_role delay_role = {
    .name = "delay",
    .port_offset = 2,
    .start = role_start,
    .stop = role_stop,
    .url = role_url,
};
