/*
 * qbase/err.h: how functions say that something went wrong.
 *
 * A fallible function returns `enum q_err`. Q_OK is 0. Positive values are answers: the caller
 * handles them and does not pass them on without thinking. Negative values are failures: they are
 * passed up unchanged, and the place where the failure began has recorded what happened in this
 * thread's fault. Results go to `ret_` parameters, which are written only on Q_OK.
 *
 * Thread:   any; the fault is per thread.
 * Blocking: never.
 * Memory:   nothing is allocated; texts in a fault are copied.
 */
#ifndef QBASE_ERR_H
#define QBASE_ERR_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <qbase/err_list.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#    define Q_MUST_CHECK       __attribute__((warn_unused_result))
#    define Q_PRINTF(at, args) __attribute__((format(printf, at, args)))
#    define Q_NORETURN         __attribute__((noreturn))
#    define Q_EXPORT           __attribute__((visibility("default")))
#else
#    define Q_MUST_CHECK
#    define Q_PRINTF(at, args)
#    define Q_NORETURN
#    define Q_EXPORT
#endif

enum q_err {
    Q_OK = 0,
#define Q_ERR_ENUM(name, number, retryable, message, hint) Q_##name = (number),
    Q_ERR_LIST(Q_ERR_ENUM)
#undef Q_ERR_ENUM
};

enum {
    Q_FAULT_PATH_MAX = 256,
    Q_FAULT_TEXT_MAX = 256,
    Q_FAULT_LINE_MAX = 1024, /* enough for q_fault_format() */
    Q_POSITION_NONE = -1,
};

/* What happened, recorded once, where it began. */
struct q_fault {
    enum q_err err;
    int sys_errno;               /* 0: none */
    int64_t position;            /* byte in a log or file; Q_POSITION_NONE: none */
    char path[Q_FAULT_PATH_MAX]; /* "": none */
    char what[Q_FAULT_TEXT_MAX]; /* the fact, with numbers; "": the error's own message */
    char hint[Q_FAULT_TEXT_MAX]; /* what to do; "": the error's own hint */
    const char *file;            /* source, static storage */
    int line;
};

/* Name ("NOT_FOUND"), message, hint and retryability of an error; "UNKNOWN" for a foreign number. */
Q_EXPORT const char *q_err_name(enum q_err err);
Q_EXPORT const char *q_err_message(enum q_err err);
Q_EXPORT const char *q_err_hint(enum q_err err);
Q_EXPORT bool q_err_retryable(enum q_err err);
/* The error of a wire status or Q_E_PROTOCOL when the number is unknown. */
Q_EXPORT enum q_err q_err_from_number(int number);

/* This thread's last fault. Never NULL; `err` is Q_OK before the first one. */
Q_EXPORT const struct q_fault *q_fault_last(void);
/* Make `fault`, which another thread recorded, this thread's last one. */
void q_fault_adopt(const struct q_fault *fault);
/*
 * Write `fault` as one line of text, "what: path at byte N: errno text", without the hint.
 * Returns `out`; cuts at `out_size`.
 */
Q_EXPORT const char *q_fault_format(const struct q_fault *fault, char *out, size_t out_size);

struct q_fault_args {
    const char *path;
    int64_t position; /* set by Q_FAIL to Q_POSITION_NONE unless given */
    int sys;
    const char *what;
    const char *hint;
};

/* Record a fault. Use Q_FAIL, whose value is `err` also to a compiler that can't see in here. */
void q_fault_record(enum q_err err, const char *file, int line, const struct q_fault_args *args);

/*
 * return Q_FAIL(Q_E_CORRUPT, .path = path, .position = at, .what = "record checksum differs");
 * `.what` and `.hint` may come from q_text(). A given position overrides the default on purpose.
 */
/* clang-format off */
#define Q_FAIL(err, ...)                                                                           \
    __extension__({                                                                                \
        const enum q_err q_fail_ = (err);                                                          \
        _Pragma("GCC diagnostic push") _Pragma("GCC diagnostic ignored \"-Woverride-init\"")       \
        q_fault_record(                                                                            \
            q_fail_, __FILE__, __LINE__,                                                           \
            &(const struct q_fault_args){ .position = Q_POSITION_NONE, __VA_ARGS__ });             \
        _Pragma("GCC diagnostic pop") q_fail_;                                                     \
    })
/* clang-format on */

/* The failure that fits a system call's errno (ENOSPC: Q_E_NO_SPACE, EACCES: Q_E_PERMISSION, …). */
enum q_err q_err_from_errno(int sys_errno);

/* Formatted text in one of 8 rotating buffers of this thread, for use within one statement. */
const char *q_text(const char *format, ...) Q_PRINTF(1, 2);

/* Return anything but Q_OK upward. Only where every answer of `expression` is one of ours, too. */
#define Q_TRY(expression)                                                                          \
    do {                                                                                           \
        enum q_err q_try_err_ = (expression);                                                      \
        if (q_try_err_ != Q_OK) return q_try_err_;                                                 \
    } while (0)

#ifdef __cplusplus
}
#endif

#endif /* QBASE_ERR_H */
