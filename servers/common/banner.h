/*
 * common/banner.h: what a person sees who starts a node with --dev.
 *
 * It shows what is there and nothing else; its last lines are what to type next.
 */
#ifndef SRV_COMMON_BANNER_H
#define SRV_COMMON_BANNER_H

#include "common/options.h"

enum {
    SRV_BANNER_LINES_MAX = 4,
    SRV_BANNER_TEXT_MAX = 200
};

struct srv_banner_line {
    char name[16];
    char text[SRV_BANNER_TEXT_MAX];
};

struct srv_banner {
    const struct srv_options *options;
    const struct srv_node_view *node;
    char role_urls[512]; /* lines `role url` */
    bool created;        /* the data directory */
    uint64_t ready_ms;
    struct srv_banner_line lines[SRV_BANNER_LINES_MAX]; /* from the roles */
    size_t line_count;
};

/* Beyond the maximum it is left out. Cut at SRV_BANNER_TEXT_MAX. */
void srv_banner_add(struct srv_banner *banner, const char *name, const char *text);
void srv_banner_print(const struct srv_banner *banner);

#endif /* SRV_COMMON_BANNER_H */
