#include "segment/env.h"

#include <string.h>

#include <qbase/assert.h>

#include "segment/decisions.h"

static const char *const event_names[] = {
#define QLOG_EVENT_NAME(name, meaning) #name,
    QLOG_EVENT_LIST(QLOG_EVENT_NAME)
#undef QLOG_EVENT_NAME
};

const char *
qlog_event_name(enum qlog_event_kind kind)
{
    return (unsigned)kind < QLOG_EVENT_COUNT ? event_names[kind] : "UNKNOWN";
}

const char *
qlog_mode_name(enum qlog_mode mode)
{
    static const char *const names[] = { "default", "async", "sync", "replica", "sync+replica" };
    return (unsigned)mode < sizeof(names) / sizeof(names[0]) ? names[mode] : "unknown";
}

void
ql_env_break(struct ql_env *env, const char *log, const char *path, uint64_t at, int sys_errno)
{
    if (env->broken != Q_OK) return;
    env->broken = Q_FAIL(
        Q_E_BROKEN, .path = path, .position = (int64_t)at, .sys = sys_errno,
        .what = q_text("a write or flush of the %s log failed", log),
        .hint = "nothing that was acknowledged depends on it; restart: recovery reads what the "
                "disk really has");
    env->broken_fault = *q_fault_last();
    QL_TELL(env, BROKEN, .log = log, .path = path, .position = at, .text = env->broken_fault.what);
}

enum q_err
ql_env_check(const struct ql_env *env)
{
    if (env->broken == Q_OK) return Q_OK;
    q_fault_adopt(&env->broken_fault);
    return env->broken;
}

void
ql_env_tell(const struct ql_env *env, enum qlog_event_kind kind, const struct ql_event_args *args)
{
    struct qlog_event event = {
        .kind = kind,
        .log = args->log == NULL ? "" : args->log,
        .path = args->path == NULL ? "" : args->path,
        .position = args->position,
        .bytes = args->bytes,
        .text = args->text == NULL ? "" : args->text,
    };
    if (env->decisions != NULL && ql_is_decision(kind))
        ql_decisions_note(env->decisions, env->clock, &event);
    if (env->observer != NULL && env->observer->on_event != NULL)
        env->observer->on_event(env->observer->context, &event);
}
