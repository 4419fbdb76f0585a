/*
 * err.c: the table of errors and this thread's fault.
 */
#include <qbase/err.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

enum {
    TEXT_BUFFERS = 8,
    TEXT_SIZE = 512
};

struct err_row {
    enum q_err err;
    bool retryable;
    const char *name;
    const char *message;
    const char *hint;
};

static const struct err_row ok_row = { Q_OK, false, "OK", "no error", "" };
static const struct err_row unknown_row = { Q_OK, false, "UNKNOWN", "unknown error", "" };

static const struct err_row err_rows[] = {
#define ERR_ROW(name, number, retryable, message, hint)                                            \
    { Q_##name, retryable, #name, message, hint },
    Q_ERR_LIST(ERR_ROW)
#undef ERR_ROW
};

enum {
    ERR_ROW_COUNT = sizeof(err_rows) / sizeof(err_rows[0])
};

static _Thread_local struct q_fault thread_fault = { .position = Q_POSITION_NONE, .file = "" };

static const struct err_row *err_row_find(enum q_err err);
static void text_copy(char *to, size_t to_size, const char *from);

const char *
q_err_name(enum q_err err)
{
    return err_row_find(err)->name;
}

const char *
q_err_message(enum q_err err)
{
    return err_row_find(err)->message;
}

const char *
q_err_hint(enum q_err err)
{
    return err_row_find(err)->hint;
}

bool
q_err_retryable(enum q_err err)
{
    return err_row_find(err)->retryable;
}

enum q_err
q_err_from_number(int number)
{
    if (number == Q_OK) return Q_OK;
    for (size_t i = 0; i < ERR_ROW_COUNT; i++) {
        if ((int)err_rows[i].err == number) return err_rows[i].err;
    }
    return Q_E_PROTOCOL;
}

static const struct err_row *
err_row_find(enum q_err err)
{
    if (err == Q_OK) return &ok_row;
    for (size_t i = 0; i < ERR_ROW_COUNT; i++) {
        if (err_rows[i].err == err) return &err_rows[i];
    }
    return &unknown_row;
}

const struct q_fault *
q_fault_last(void)
{
    return &thread_fault;
}

void
q_fault_adopt(const struct q_fault *fault)
{
    thread_fault = *fault;
}

const char *
q_fault_format(const struct q_fault *fault, char *out, size_t out_size)
{
    Q_ASSERT(out_size > 0);

    const char *what = fault->what[0] != '\0' ? fault->what : q_err_message(fault->err);
    const char *path_mark = fault->path[0] != '\0' ? ": " : "";
    char position[32] = "";
    if (fault->position != Q_POSITION_NONE)
        (void)snprintf(position, sizeof(position), " at byte %lld", (long long)fault->position);
    const char *cause = "";
    char cause_text[128];
    if (fault->sys_errno != 0) cause = strerror_r(fault->sys_errno, cause_text, sizeof(cause_text));
    const char *cause_mark = fault->sys_errno != 0 ? ": " : "";

    /* Cutting at `out_size` is the contract, so the result needs no look. */
    (void)snprintf(
        out, out_size, "%s%s%s%s%s%s", what, path_mark, fault->path, position, cause_mark, cause);
    return out;
}

void
q_fault_record(enum q_err err, const char *file, int line, const struct q_fault_args *args)
{
    Q_ASSERT(err != Q_OK);

    /* Built aside: the texts may be those of the fault that is replaced. */
    struct q_fault fault = {
        .err = err,
        .sys_errno = args->sys,
        .position = args->position,
        .file = file,
        .line = line,
    };
    text_copy(fault.path, sizeof(fault.path), args->path);
    text_copy(fault.what, sizeof(fault.what), args->what);
    text_copy(fault.hint, sizeof(fault.hint), args->hint);
    thread_fault = fault;
}

static void
text_copy(char *to, size_t to_size, const char *from)
{
    if (from == NULL) from = "";
    size_t length = strnlen(from, to_size - 1);
    memcpy(to, from, length);
    to[length] = '\0';
}

enum q_err
q_err_from_errno(int sys_errno)
{
    switch (sys_errno) {
    case ENOMEM:
        return Q_E_NOMEM;
    case ENOSPC:
    case EDQUOT:
        return Q_E_NO_SPACE;
    case EACCES:
    case EPERM:
    case EROFS:
        return Q_E_PERMISSION;
    case ENOTDIR:
        return Q_E_NOT_DIRECTORY;
    case EADDRINUSE:
        return Q_E_ADDRESS_IN_USE;
    case ECONNREFUSED:
    case ECONNRESET:
    case ECONNABORTED:
    case ENETUNREACH:
    case EHOSTUNREACH:
    case ENOTCONN:
    case EPIPE:
    case ETIMEDOUT:
        return Q_E_CONNECTION;
    case EMFILE:
    case ENFILE:
        return Q_E_FILES;
    case ENOSYS:
    case EOPNOTSUPP:
        return Q_E_UNSUPPORTED;
    default:
        return Q_E_IO;
    }
}

const char *
q_text(const char *format, ...)
{
    static _Thread_local char buffers[TEXT_BUFFERS][TEXT_SIZE];
    static _Thread_local unsigned next;

    char *text = buffers[next];
    next = (next + 1) % TEXT_BUFFERS;

    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, TEXT_SIZE, format, args);
    va_end(args);
    return text;
}

void
q_assert_failed(const char *expression, const char *file, int line)
{
    (void)fprintf(stderr, "%s:%d: assertion failed: %s\n", file, line, expression);
    abort();
}
