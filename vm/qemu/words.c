/*
 * words: see words.h.
 */
#include "vm/qemu/words.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void words_add(struct words *w, const char *format, ...)
{
    if (w->n + 2 > w->capacity) {
        size_t capacity = w->capacity ? w->capacity * 2 : 32;
        char **at = reallocarray(w->at, capacity, sizeof *at);
        if (!at) {
            w->failed = true;
            return;
        }
        w->at = at;
        w->capacity = capacity;
    }
    va_list args;
    va_start(args, format);
    int n = vasprintf(&w->at[w->n], format, args);
    va_end(args);
    if (n < 0) {
        w->failed = true;
        return;
    }
    w->at[++w->n] = NULL;
}

void words_free(struct words *w)
{
    for (size_t i = 0; i < w->n; i++)
        free(w->at[i]);
    free(w->at);
    *w = (struct words){0};
}

/* Copies one word from *text to `out` and moves *text behind it. false: a quote is not closed. */
static bool take_word(const char **text, char *out)
{
    char quote = '\0';
    const char *s = *text;
    for (; *s && (quote || !strchr(" \t\n", *s)); s++) {
        if (quote != '\'' && *s == '\\' && s[1] && (!quote || s[1] == '"' || s[1] == '\\'))
            *out++ = *++s;
        else if (!quote && (*s == '\'' || *s == '"'))
            quote = *s;
        else if (quote && *s == quote)
            quote = '\0';
        else
            *out++ = *s;
    }
    *out = '\0';
    *text = s;
    return quote == '\0';
}

int words_split(struct words *w, const char *text, struct errmsg *e)
{
    char *word = malloc(strlen(text) + 1);
    if (!word)
        return errmsg_set(e, "out of memory");
    int status = 0;
    for (;;) {
        text += strspn(text, " \t\n");
        if (!*text)
            break;
        if (!take_word(&text, word)) {
            status = errmsg_set(e, "a quote is not closed in: ...%s", word);
            break;
        }
        words_add(w, "%s", word);
    }
    free(word);
    return w->failed ? errmsg_set(e, "out of memory") : status;
}

/* The next item of a comma list: its length, or 0 at the end. */
static size_t next_item(const char **list)
{
    if (**list == ',')
        ++*list;
    return strcspn(*list, ",");
}

static bool item_is(const char *item, size_t n, const char *key)
{
    size_t k = strlen(key);
    return n >= k && memcmp(item, key, k) == 0 && (n == k || item[k] == '=');
}

bool comma_value(const char *list, const char *key, char *out, size_t size)
{
    for (size_t n; *list && ((n = next_item(&list)) > 0 || *list); list += n) {
        if (!item_is(list, n, key))
            continue;
        size_t k = strlen(key);
        if (n == k)
            snprintf(out, size, "on");
        else
            snprintf(out, size, "%.*s", (int)(n - k - 1), list + k + 1);
        return true;
    }
    return false;
}

char *comma_without(const char *list, const char *key)
{
    char *out = malloc(strlen(list) + 1), *end = out;
    if (!out)
        return NULL;
    *end = '\0';
    for (size_t n; *list && ((n = next_item(&list)) > 0 || *list); list += n) {
        if (item_is(list, n, key))
            continue;
        if (end != out)
            *end++ = ',';
        memcpy(end, list, n);
        end[n] = '\0';
        end += n;
    }
    return out;
}
