// The header part of an edgead message: a msgpack map, then its CRC-32, big-endian.
#pragma once
#include <cstdint>
#include <map>
#include <msgpack.hpp>
#include <stdexcept>
#include <string>
#include <zmq.hpp>

inline uint32_t crc32(const void *data, size_t size) {  // check value: 0xCBF43926 for "123456789"
    auto bytes = static_cast<const uint8_t *>(data);
    uint32_t crc = 0xFFFFFFFF;
    for (size_t i = 0; i < size; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (crc & 1 ? 0xEDB88320 : 0);
    }
    return ~crc;
}

inline void seal(msgpack::sbuffer &header) {
    uint32_t crc = crc32(header.data(), header.size());
    for (int shift = 24; shift >= 0; shift -= 8) {
        char byte = static_cast<char>(crc >> shift);
        header.write(&byte, 1);
    }
}

struct Header {  // a received header; the fields live as long as it does
    msgpack::object_handle map;
    std::map<std::string, msgpack::object> fields;
    Header(const zmq::message_t &part, const std::string &schema) {
        auto data = static_cast<const char *>(part.data());
        uint32_t crc = 0;
        if (part.size() < 5 || part.size() > 8192) throw std::runtime_error("header_size");
        for (size_t i = part.size() - 4; i < part.size(); i++) crc = crc << 8 | static_cast<uint8_t>(data[i]);
        if (crc != crc32(data, part.size() - 4)) throw std::runtime_error("header_crc");
        map = msgpack::unpack(data, part.size() - 4);
        fields = map.get().as<std::map<std::string, msgpack::object>>();
        if (fields.at("schema").as<std::string>() != schema) throw std::runtime_error("schema");
        if (fields.at("version").as<std::vector<int>>().at(0) != 1) throw std::runtime_error("version");
    }
    template <typename T> T get(const std::string &name) const { return fields.at(name).as<T>(); }
    bool has(const std::string &name) const { return fields.count(name) && !fields.at(name).is_nil(); }
};
