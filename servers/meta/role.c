/*
 * role.c: a node starts and stops meta.
 */
#include "meta/role.h"

#include <limits.h>

#include "common/home.h"
#include "meta/meta.h"

static enum q_err
role_start(struct srv_node *node, void **ret_state)
{
    const struct srv_node_view *view = srv_node_view(node);
    char directory[PATH_MAX];
    Q_TRY(srv_home_directory(view->directory, "meta", directory, sizeof(directory)));

    const struct meta_options options = {
        .directory = directory,
        .url = view->url,
        .clock = q_clock_system(),
        .program = view->program,
        .node_id = view->node_id,
        .roles = view->roles,
    };
    struct meta *meta;
    Q_TRY(meta_start(&options, &meta));
    *ret_state = meta;
    /* Nobody has to admit meta, and it is no part of a route. */
    srv_node_ready(node);
    return Q_OK;
}

static enum q_err
role_stop(void *state)
{
    meta_stop(state);
    return Q_OK;
}

static const char *
role_url(void *state)
{
    return meta_url(state);
}

const struct srv_role meta_role = {
    .name = "meta",
    .port_offset = 0,
    .start = role_start,
    .stop = role_stop,
    .url = role_url,
};
