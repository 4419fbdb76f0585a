/*
 * name.c: what subjects, groups and consumers may be called.
 */
#include <qproto/message.h>

static bool is_name_character(char c);

enum q_err
qproto_check_name(const char *what, const char *name, size_t length_max)
{
    size_t length = strlen(name);

    if (length == 0) return Q_FAIL(Q_INVALID, .what = q_text("the %s is empty", what));
    if (length > length_max)
        return Q_FAIL(
            Q_INVALID,
            .what = q_text("the %s has %zu characters, at most %zu fit", what, length, length_max));

    for (size_t at = 0; at < length; at++) {
        if (is_name_character(name[at])) continue;
        if (name[at] == '%')
            return Q_FAIL(
                Q_INVALID, .what = q_text("the %s has a '%%' at %zu", what, at),
                .hint = "'%' is reserved for internal names");
        return Q_FAIL(
            Q_INVALID,
            .what = q_text("the %s has byte 0x%02x at %zu", what, (unsigned char)name[at], at),
            .hint = "use letters, digits, '.', '_' and '-'");
    }
    return Q_OK;
}

/* Not isalnum(): names don't depend on the user's language. */
static bool
is_name_character(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
}
