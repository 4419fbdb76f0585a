/*
 * options.c: one table makes parser, help and suggestions; then the checks no table can make.
 */
#include "common/options.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include <qbase/clock.h>
#include <qbase/opts.h>
#include <qbase/text.h>
#include <qproto/message.h>

#include "common/exit.h"

enum {
    SEGMENT_BYTES_MIN = 1024 * 1024,
    PORT_BASE_MAX = 65535 - 10
};

/* What the parser fills, before it is checked. */
struct words {
    struct srv_options options;
    const char *roles;
    const char *log_level;
    const char *durability;
    bool version;
};

/* Which programs have an option: those with this role; "store": with a store; "*": with more than one.
 * NULL: all. */
struct row {
    const char *role;
    struct q_opt opt;
};

enum {
    ROWS_MAX = 32
};

static size_t collect(
    const struct srv_program *program, struct words *words, struct q_opt *options);
static bool has_role(const struct srv_program *program, const char *name);
static void print_help(
    const struct srv_program *program, const struct q_opt *options, size_t option_count);
static enum q_err choose_roles(const struct srv_program *program, struct words *words);
static enum q_err unknown_role(const struct srv_program *program, const char *word);
static enum q_err check(const struct srv_program *program, struct words *words);
static bool is_ip_address(const char *text);

enum q_err
srv_options_parse(
    const struct srv_program *program, int argc, char **argv, struct srv_options *ret_options)
{
    struct words words = {
        .options = {
            .port_base = SRV_PORT_BASE_DEFAULT,
            .listen = "127.0.0.1",
            .cluster = "default",
            .log_level = SRV_INFO,
        },
    };
    struct q_opt options[ROWS_MAX];
    size_t option_count = collect(program, &words, options);

    struct q_opts_result result;
    if (q_opts_parse(options, option_count, argc, argv, &result) != Q_OK)
        return Q_FAIL(Q_INVALID, .what = result.error);
    if (result.help) {
        print_help(program, options, option_count);
        return Q_END;
    }
    if (words.version) {
        (void)printf("%s %s\n", program->name, QMQ_VERSION);
        return Q_END;
    }
    if (result.arg_count > 0)
        return Q_FAIL(
            Q_INVALID,
            .what = q_text("unexpected argument '%s'; options begin with --", result.args[0]));

    Q_TRY(choose_roles(program, &words));
    Q_TRY(check(program, &words));
    *ret_options = words.options;
    return Q_OK;
}

/* The rows of this program's roles. */
static size_t
collect(const struct srv_program *program, struct words *words, struct q_opt *options)
{
    struct srv_options *to = &words->options;
    /* clang-format off */
    const struct row rows[] = {
        { "*",      { "roles", 0, Q_OPT_TEXT, &words->roles, "LIST",
                      "what this process is: any of meta,broker,delay (all)", 0, 0 } },
        { NULL,     { "dir", 0, Q_OPT_TEXT, &to->directory, "DIR",
                      "data directory; made when it does not exist", 0, 0 } },
        { NULL,     { "port-base", 0, Q_OPT_NUMBER, &to->port_base, "N",
                      "port of meta; broker N+1, delay N+2, one-way N+3 (20880; 0: any free ports)",
                      0, PORT_BASE_MAX } },
        { NULL,     { "listen", 0, Q_OPT_TEXT, &to->listen, "ADDR",
                      "IP address to listen on (127.0.0.1: this machine only)", 0, 0 } },
        { "store",  { "advertise", 0, Q_OPT_TEXT, &to->advertise, "HOST",
                      "host that clients use, when it is not the one of --listen", 0, 0 } },
        { "store",  { "meta", 0, Q_OPT_TEXT, &to->meta_url, "URL",
                      "meta to register at (the node's own, or tcp://127.0.0.1:PORT-BASE)", 0, 0 } },
        { "store",  { "broker-group", 0, Q_OPT_TEXT, &to->broker_group, "NAME",
                      "name of this store among all (made from the node id)", 0, 0 } },
        { "store",  { "cluster", 0, Q_OPT_TEXT, &to->cluster, "NAME",
                      "cluster the node belongs to (default)", 0, 0 } },
        { "store",  { "segment-size", 0, Q_OPT_SIZE, &to->storage.segment_bytes, "SIZE",
                      "of a log file (256MiB, less on small disks)", SEGMENT_BYTES_MIN, 0 } },
        { "broker", { "durability", 0, Q_OPT_TEXT, &words->durability, "MODE",
                      "sync: flushed before it is acknowledged and seen; async: written (sync)",
                      0, 0 } },
        { "broker", { "one-way", 0, Q_OPT_TEXT, &to->one_way, "URL",
                      "where one-way messages are taken, or none (tcp://LISTEN:PORT-BASE+3)", 0, 0 } },
        { "broker", { "memory-max", 0, Q_OPT_SIZE, &to->storage.memory_max, "SIZE",
                      "of the store; what can take less is made to fit (no limit)", 1, 0 } },
        { "broker", { "group-memory", 0, Q_OPT_SIZE, &to->storage.group_bytes_max, "SIZE",
                      "for groups and what their consumers hold (512MiB)", 1, 0 } },
        { "broker", { "subjects-max", 0, Q_OPT_NUMBER, &to->storage.subjects_max, "N",
                      "subjects there may be (1000000)", 1, 100 * 1000 * 1000 } },
        { "broker", { "retention", 0, Q_OPT_DURATION, &to->storage.retention_ns, "TIME",
                      "messages older than this may go (72h)", Q_NS_PER_S, 0 } },
        { "broker", { "retention-size", 0, Q_OPT_SIZE, &to->storage.retention_bytes, "SIZE",
                      "of the message log; above it the oldest go (no limit)", SEGMENT_BYTES_MIN, 0 } },
        { "broker", { "keep-unconsumed", 0, Q_OPT_FLAG, &to->storage.keep_unconsumed, NULL,
                      "nothing goes before every group has consumed it", 0, 0 } },
        { "broker", { "archive", 0, Q_OPT_TEXT, &to->storage.archive, "DIR",
                      "files that go are copied there first; qlog reads them", 0, 0 } },
        { "broker", { "disk-soft", 0, Q_OPT_SIZE, &to->storage.disk_soft_bytes, "SIZE",
                      "with less free, what is consumed goes early (15 %, at most 20GiB)", 1, 0 } },
        { "broker", { "disk-hard", 0, Q_OPT_SIZE, &to->storage.disk_hard_bytes, "SIZE",
                      "with less free, publishes are refused (5 %, at most 2GiB)", 1, 0 } },
        { "*",      { "dev", 0, Q_OPT_FLAG, &to->dev, NULL,
                      "a node to try things with: banner, ./qmq-data, warnings only", 0, 0 } },
        { NULL,     { "ready-file", 0, Q_OPT_TEXT, &to->ready_file, "PATH",
                      "written once ready: a line `ROLE URL` for each role; removed at the end",
                      0, 0 } },
        { NULL,     { "log-level", 0, Q_OPT_TEXT, &words->log_level, "LEVEL",
                      "error, warn, info or debug (info)", 0, 0 } },
        { NULL,     { "version", 0, Q_OPT_FLAG, &words->version, NULL,
                      "print the version and end", 0, 0 } },
    };
    /* clang-format on */
    _Static_assert(sizeof(rows) / sizeof(rows[0]) <= ROWS_MAX, "make ROWS_MAX larger");

    size_t count = 0;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const char *role = rows[i].role;
        bool is_store = has_role(program, "broker") || has_role(program, "delay");
        bool is_ours = !role || (*role == '*' && program->role_count > 1) ||
                       (strcmp(role, "store") == 0 && is_store) || has_role(program, role);
        if (is_ours) options[count++] = rows[i].opt;
    }
    return count;
}

static bool
has_role(const struct srv_program *program, const char *name)
{
    for (size_t i = 0; i < program->role_count; i++) {
        if (strcmp(program->roles[i]->name, name) == 0) return true;
    }
    return false;
}

static void
print_help(const struct srv_program *program, const struct q_opt *options, size_t option_count)
{
    (void)printf("%s: %s\n\nusage: %s [OPTIONS]\n\n", program->name, program->what, program->name);
    q_opts_print_help(stdout, options, option_count);
    (void)printf("\nexit codes:\n");
    srv_exit_print_help(stdout);
}

static enum q_err
choose_roles(const struct srv_program *program, struct words *words)
{
    struct srv_options *options = &words->options;
    bool chosen[SRV_ROLES_MAX] = { false };

    const char *at = words->roles;
    while (at) {
        size_t length = strcspn(at, ",");
        size_t i = 0;
        while (i < program->role_count && (strlen(program->roles[i]->name) != length ||
                                           memcmp(program->roles[i]->name, at, length) != 0))
            i++;
        if (i == program->role_count) return unknown_role(program, q_text("%.*s", (int)length, at));
        chosen[i] = true;
        at = at[length] ? at + length + 1 : NULL;
    }

    /* Whatever order they were named in: meta starts before those who register there. */
    for (size_t i = 0; i < program->role_count; i++) {
        if (!words->roles || chosen[i]) options->roles[options->role_count++] = program->roles[i];
    }
    return Q_OK;
}

static enum q_err
unknown_role(const struct srv_program *program, const char *word)
{
    const char *names[SRV_ROLES_MAX];
    for (size_t i = 0; i < program->role_count; i++) {
        names[i] = program->roles[i]->name;
    }
    const char *near = q_text_nearest(word, names, program->role_count);
    if (near)
        return Q_FAIL(
            Q_INVALID,
            .what = q_text("--roles: unknown role '%s'; did you mean '%s'?", word, near));
    return Q_FAIL(
        Q_INVALID,
        .what = q_text("--roles: unknown role '%s'; there are meta, broker and delay", word));
}

static enum q_err
check(const struct srv_program *program, struct words *words)
{
    struct srv_options *options = &words->options;

    if (options->dev) {
        if (!options->directory) options->directory = "./qmq-data";
        if (!options->broker_group) options->broker_group = "dev-1";
        options->log_level = SRV_WARN;
    }
    if (!options->directory || !*options->directory)
        return Q_FAIL(
            Q_INVALID, .what = q_text(
                           "--dir is missing; name the data directory, for example: %s --dir "
                           "/var/lib/qmq",
                           program->name));
    if (!is_ip_address(options->listen))
        return Q_FAIL(
            Q_INVALID, .what = q_text(
                           "--listen: '%s' is no IP address; use 127.0.0.1, 0.0.0.0 or an address "
                           "of this machine, without a port (see --port-base)",
                           options->listen));
    if (options->meta_url && !strstr(options->meta_url, "://"))
        return Q_FAIL(
            Q_INVALID,
            .what = q_text("--meta: '%s' is no url; use tcp://HOST:PORT", options->meta_url));
    if (options->one_way && strcmp(options->one_way, "none") != 0 &&
        !strstr(options->one_way, "://"))
        return Q_FAIL(
            Q_INVALID, .what = q_text(
                           "--one-way: '%s' is no url; use tcp://IP:PORT, or none to take no "
                           "one-way messages",
                           options->one_way));
    if (words->log_level && srv_log_parse_level(words->log_level, &options->log_level) != Q_OK)
        return Q_FAIL(Q_INVALID, .what = q_text("--log-level: %s", q_fault_last()->what));
    options->storage.async = words->durability && strcmp(words->durability, "async") == 0;
    if (words->durability && !options->storage.async && strcmp(words->durability, "sync") != 0)
        return Q_FAIL(
            Q_INVALID,
            .what = q_text("--durability: '%s' is neither sync nor async", words->durability));
    if (options->broker_group &&
        qproto_check_name("name", options->broker_group, QPROTO_GROUP_MAX) != Q_OK)
        return Q_FAIL(
            Q_INVALID,
            .what = q_text(
                "--broker-group: %s; use letters, digits, '.', '_' and '-'", q_fault_last()->what));
    return Q_OK;
}

static bool
is_ip_address(const char *text)
{
    struct in_addr v4;
    struct in6_addr v6;
    return inet_pton(AF_INET, text, &v4) == 1 || inet_pton(AF_INET6, text, &v6) == 1;
}
