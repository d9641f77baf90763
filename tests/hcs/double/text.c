/* Texts: UTF-8 and UTF-16, growing buffers, as much JSON as the service's documents need, and a hash for names. */
#include "double.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *grown(void *memory, size_t size)
{
    void *made = realloc(memory, size ? size : 1);
    if (!made)
        abort();
    return made;
}

char *copy_of(const char *value)
{
    return value ? strcpy(grown(NULL, strlen(value) + 1), value) : NULL;
}

char *utf8(PCWSTR value)
{
    if (!value)
        return NULL;
    int size = WideCharToMultiByte(CP_UTF8, 0, value, -1, NULL, 0, NULL, NULL);
    char *made = grown(NULL, size + 1);
    made[0] = 0;
    WideCharToMultiByte(CP_UTF8, 0, value, -1, made, size, NULL, NULL);
    return made;
}

WCHAR *utf16(const char *value)
{
    if (!value)
        return NULL;
    int size = MultiByteToWideChar(CP_UTF8, 0, value, -1, NULL, 0);
    WCHAR *made = grown(NULL, (size + 1) * sizeof(WCHAR));
    made[0] = 0;
    MultiByteToWideChar(CP_UTF8, 0, value, -1, made, size);
    return made;
}

void put_bytes(text *out, const char *data, size_t size)
{
    if (out->size + size + 1 > out->room) {
        out->room = (out->size + size + 1) * 2;
        out->at = grown(out->at, out->room);
    }
    if (size)
        memcpy(out->at + out->size, data, size);
    out->size += size;
    out->at[out->size] = 0;
}

void put(text *out, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    char *made = grown(NULL, size + 1);
    va_start(arguments, format);
    vsnprintf(made, size + 1, format, arguments);
    va_end(arguments);
    put_bytes(out, made, size);
    free(made);
}

/* Tab, newline, backslash, carriage return and NUL are written with a backslash; all else stays. */
void put_escaped(text *out, const char *value, size_t size)
{
    static const char plain[] = "\t\n\\\r\0", marks[] = "tn\\r0";
    for (size_t i = 0; i < size; i++) {
        const char *found = memchr(plain, value[i], 5);
        if (found) {
            put_bytes(out, "\\", 1);
            put_bytes(out, marks + (found - plain), 1);
        } else {
            put_bytes(out, value + i, 1);
        }
    }
}

char *unescaped(char *value, size_t *size)
{
    char *to = value;
    for (const char *from = value; *from; from++) {
        if (*from == '\\' && from[1]) {
            from++;
            *to++ = *from == 't' ? '\t' : *from == 'n' ? '\n' : *from == 'r' ? '\r' : *from == '0' ? 0 : *from;
        } else {
            *to++ = *from;
        }
    }
    *to = 0;
    if (size)
        *size = to - value;
    return value;
}

/* JSON: documents come from an encoder, so what is not JSON is not told apart. */

static const char *blanks(const char *at)
{
    while (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r')
        at++;
    return at;
}

static const char *after_value(const char *at)
{
    int depth = 0;
    do {
        at = blanks(at);
        if (*at == '"') {
            for (at++; *at && *at != '"'; at++)
                if (*at == '\\' && at[1])
                    at++;
            if (*at)
                at++;
        } else if (*at == '{' || *at == '[') {
            depth++;
            at++;
            continue;
        } else if (*at == '}' || *at == ']') {
            depth--;
            at++;
        } else if (*at == ',' || *at == ':') {
            at++;
            continue;
        } else {
            while (*at && !strchr(",:]}{[ \t\r\n", *at))
                at++;
        }
    } while (depth > 0 && *at);
    return at;
}

const char *json_next(const char *place, char **name, const char **value)
{
    if (!place)
        return NULL;
    place = blanks(place);
    if (*place == '{' || *place == ',')
        place = blanks(place + 1);
    if (*place != '"')
        return NULL;
    *name = json_string(place);
    place = blanks(after_value(place));
    if (*place != ':') {
        free(*name);
        return NULL;
    }
    *value = blanks(place + 1);
    return blanks(after_value(*value));
}

const char *json_member(const char *object, const char *wanted)
{
    const char *place = object ? blanks(object) : NULL, *value;
    char *name;
    if (!place || *place != '{')
        return NULL;
    while ((place = json_next(place, &name, &value))) {
        int found = !strcmp(name, wanted);
        free(name);
        if (found)
            return value;
    }
    return NULL;
}

int json_true(const char *value)
{
    return value && !strncmp(value, "true", 4);
}

char *json_string(const char *value)
{
    if (!value || *value != '"')
        return NULL;
    text out = {0};
    put_bytes(&out, "", 0);
    for (const char *at = value + 1; *at && *at != '"'; at++) {
        if (*at != '\\') {
            put_bytes(&out, at, 1);
            continue;
        }
        at++;
        if (*at == 'u') {
            WCHAR units[3] = {0};
            for (int i = 0; i < 2; i++) {
                char digits[5] = {0};
                strncpy(digits, at + 1, 4);
                units[i] = (WCHAR)strtoul(digits, NULL, 16);
                at += strlen(digits);
                if (i == 1 || units[0] < 0xD800 || units[0] > 0xDBFF || at[1] != '\\' || at[2] != 'u')
                    break;
                at += 2;
            }
            char *made = utf8(units);
            put_bytes(&out, made, strlen(made));
            free(made);
        } else {
            char plain = *at == 'n' ? '\n' : *at == 't' ? '\t' : *at == 'r' ? '\r' : *at == 'b' ? '\b' : *at == 'f' ? '\f' : *at;
            put_bytes(&out, &plain, 1);
        }
    }
    return out.at;
}

/* SHA-1 (FIPS 180-1), for the recordings' choice of layer ids: a version 5 UUID of 16 zero bytes and UTF-16LE. */

static DWORD rotated(DWORD value, int by)
{
    return value << by | value >> (32 - by);
}

static void sha1(const BYTE *data, size_t size, BYTE digest[20])
{
    DWORD h[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0}, w[80];
    size_t whole = (size + 8) / 64 * 64 + 64;
    BYTE *padded = grown(NULL, whole);
    memset(padded, 0, whole);
    memcpy(padded, data, size);
    padded[size] = 0x80;
    for (int i = 0; i < 8; i++)
        padded[whole - 1 - i] = (BYTE)((ULONGLONG)size * 8 >> (8 * i));
    for (size_t block = 0; block < whole; block += 64) {
        for (int i = 0; i < 16; i++)
            w[i] = (DWORD)padded[block + 4 * i] << 24 | padded[block + 4 * i + 1] << 16 | padded[block + 4 * i + 2] << 8 | padded[block + 4 * i + 3];
        for (int i = 16; i < 80; i++)
            w[i] = rotated(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
        DWORD a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
        for (int i = 0; i < 80; i++) {
            DWORD f = i < 20 ? ((b & c) | (~b & d)) + 0x5A827999 : i < 40 ? (b ^ c ^ d) + 0x6ED9EBA1 : i < 60 ? ((b & c) | (b & d) | (c & d)) + 0x8F1BBCDC : (b ^ c ^ d) + 0xCA62C1D6;
            DWORD t = rotated(a, 5) + f + e + w[i];
            e = d, d = c, c = rotated(b, 30), b = a, a = t;
        }
        h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
    }
    free(padded);
    for (int i = 0; i < 20; i++)
        digest[i] = (BYTE)(h[i / 4] >> (24 - i % 4 * 8));
}

void version_five(const char *name, GUID *out)
{
    WCHAR *wide = utf16(name);
    size_t size = wcslen(wide) * sizeof(WCHAR);
    BYTE digest[20], *data = grown(NULL, 16 + size);
    memset(data, 0, 16);
    memcpy(data + 16, wide, size);
    sha1(data, 16 + size, digest);
    free(data);
    free(wide);
    digest[6] = (digest[6] & 0x0F) | 0x50;
    digest[8] = (digest[8] & 0x3F) | 0x80;
    out->Data1 = (DWORD)digest[0] << 24 | digest[1] << 16 | digest[2] << 8 | digest[3];
    out->Data2 = (WORD)(digest[4] << 8 | digest[5]);
    out->Data3 = (WORD)(digest[6] << 8 | digest[7]);
    memcpy(out->Data4, digest + 8, 8);
}
