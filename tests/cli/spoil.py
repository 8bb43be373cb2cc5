"""Ways to spoil a file."""


def cut(data):
    return data[: len(data) // 2]


def flipped(data):
    middle = len(data) // 2
    return (
        data[:middle]
        + bytes(255 - one for one in data[middle : middle + 99])
        + data[middle + 99 :]
    )
