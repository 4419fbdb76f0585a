/*
 * banner.c: the first lines a newcomer reads.
 */
#include "common/banner.h"

#include <stdio.h>
#include <string.h>

static const char *address_note(const char *listen);

void
srv_banner_add(struct srv_banner *banner, const char *name, const char *text)
{
    if (banner->line_count == SRV_BANNER_LINES_MAX) return;
    struct srv_banner_line *line = &banner->lines[banner->line_count++];
    (void)snprintf(line->name, sizeof(line->name), "%s", name);
    (void)snprintf(line->text, sizeof(line->text), "%s", text);
}

void
srv_banner_print(const struct srv_banner *banner)
{
    const struct srv_options *options = banner->options;

    srv_say("qmq %s  development node (one process: %s)", QMQ_VERSION, banner->node->roles);
    srv_say("  %-11s%s  %s", "clients", banner->node->meta_url, address_note(options->listen));
    srv_say("  %-11s%s%s", "data", options->directory, banner->created ? " (created)" : "");
    for (size_t i = 0; i < banner->line_count; i++)
        srv_say("  %-11s%s", banner->lines[i].name, banner->lines[i].text);

    bool is_default = options->port_base == SRV_PORT_BASE_DEFAULT && !options->meta_url;
    const char *dash_meta = is_default ? "" : " --meta ";
    const char *meta_url = is_default ? "" : banner->node->meta_url;
    srv_say("ready in %llu ms. Next, in another terminal:", (unsigned long long)banner->ready_ms);
    srv_say("  qmq pub hello \"first message\"%s%s", dash_meta, meta_url);
    srv_say("  qmq sub hello%s%s", dash_meta, meta_url);
}

static const char *
address_note(const char *listen)
{
    bool is_loopback = strncmp(listen, "127.", 4) == 0 || strcmp(listen, "::1") == 0;
    return is_loopback ? "(this machine only; --listen to change)"
                       : "(anyone who reaches it may use it)";
}
