//! The serde serializer behind [`super::encode`].

use serde::{
    Serialize, Serializer,
    ser::{
        SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple, SerializeTupleStruct,
        SerializeTupleVariant,
    },
};
use twdag_stages::stage::{Manner, Reference, SourcePath};

use super::CanonError;

const NONE: u8 = b'N';

/// Appends one value to `bytes`.
pub(super) struct Encoder<'a> {
    pub(super) bytes: &'a mut Vec<u8>,
}

impl<'a> Encoder<'a> {
    fn length(&mut self, length: usize) {
        self.bytes.extend((length as u64).to_le_bytes());
    }

    fn text(&mut self, tag: u8, content: &[u8]) {
        self.bytes.push(tag);
        self.length(content.len());
        self.bytes.extend(content);
    }

    fn integer(self, value: i128) {
        self.bytes.push(b'I');
        self.bytes.extend(value.to_le_bytes());
    }

    fn variant(mut self, name: &str) -> Self {
        self.text(b'V', name.as_bytes());
        self
    }

    fn elements(self, tag: u8) -> Elements<'a> {
        Elements { out: self.bytes, tag, count: 0, encoded: Vec::new() }
    }

    fn fields(self) -> Fields<'a> {
        Fields { out: self.bytes, fields: Vec::new() }
    }
}

/// A sequence or map under construction; its length is known only at the end.
pub(super) struct Elements<'a> {
    out: &'a mut Vec<u8>,
    tag: u8,
    count: usize,
    encoded: Vec<u8>,
}

impl Elements<'_> {
    fn value(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), CanonError> {
        value.serialize(Encoder { bytes: &mut self.encoded })
    }

    fn element(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), CanonError> {
        self.count += 1;
        self.value(value)
    }

    fn finish(self) {
        self.out.push(self.tag);
        Encoder { bytes: self.out }.length(self.count);
        self.out.extend(self.encoded);
    }
}

/// A struct under construction.
pub(super) struct Fields<'a> {
    out: &'a mut Vec<u8>,
    fields: Vec<(&'static str, Vec<u8>)>,
}

impl Fields<'_> {
    fn field(&mut self, name: &'static str, value: &(impl Serialize + ?Sized)) -> Result<(), CanonError> {
        let mut bytes = Vec::new();
        value.serialize(Encoder { bytes: &mut bytes })?;
        if bytes != [NONE] {
            self.fields.push((name, bytes));
        }
        Ok(())
    }

    fn finish(mut self) {
        self.fields.sort();
        let mut encoder = Encoder { bytes: self.out };
        encoder.bytes.push(b'R');
        encoder.length(self.fields.len());
        for (name, value) in self.fields {
            encoder.text(b'S', name.as_bytes());
            encoder.bytes.extend(value);
        }
    }
}

macro_rules! integers {
    ($($method:ident($type:ty)),*) => { $(
        fn $method(self, value: $type) -> Result<(), CanonError> {
            self.integer(value.into());
            Ok(())
        }
    )* };
}

impl<'a> Serializer for Encoder<'a> {
    type Ok = ();
    type Error = CanonError;
    type SerializeSeq = Elements<'a>;
    type SerializeTuple = Elements<'a>;
    type SerializeTupleStruct = Elements<'a>;
    type SerializeTupleVariant = Elements<'a>;
    type SerializeMap = Elements<'a>;
    type SerializeStruct = Fields<'a>;
    type SerializeStructVariant = Fields<'a>;

    integers!(
        serialize_i8(i8),
        serialize_i16(i16),
        serialize_i32(i32),
        serialize_i64(i64),
        serialize_i128(i128),
        serialize_u8(u8),
        serialize_u16(u16),
        serialize_u32(u32),
        serialize_u64(u64)
    );

    fn serialize_u128(self, value: u128) -> Result<(), CanonError> {
        self.integer(value.try_into().map_err(|_| CanonError::TooLarge(value))?);
        Ok(())
    }

    fn serialize_bool(self, value: bool) -> Result<(), CanonError> {
        self.bytes.push(if value { b'T' } else { b'F' });
        Ok(())
    }

    fn serialize_f32(self, value: f32) -> Result<(), CanonError> {
        self.serialize_f64(value.into())
    }

    fn serialize_f64(self, value: f64) -> Result<(), CanonError> {
        if value.is_nan() {
            return Err(CanonError::NotANumber);
        }
        let value = if value == 0.0 { 0.0 } else { value };
        self.bytes.push(b'D');
        self.bytes.extend(value.to_bits().to_le_bytes());
        Ok(())
    }

    fn serialize_char(self, value: char) -> Result<(), CanonError> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(mut self, value: &str) -> Result<(), CanonError> {
        self.text(b'S', value.as_bytes());
        Ok(())
    }

    fn serialize_bytes(mut self, value: &[u8]) -> Result<(), CanonError> {
        self.text(b'B', value);
        Ok(())
    }

    fn serialize_none(self) -> Result<(), CanonError> {
        self.bytes.push(NONE);
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), CanonError> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), CanonError> {
        self.bytes.push(b'U');
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), CanonError> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), CanonError> {
        self.variant(variant).serialize_unit()
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<(), CanonError> {
        match name {
            Reference::SERDE_NAME => self.bytes.push(b'@'),
            SourcePath::SERDE_NAME => self.bytes.push(b'/'),
            Manner::SERDE_NAME => self.bytes.push(NONE),
            _ => value.serialize(self)?,
        }
        Ok(())
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), CanonError> {
        value.serialize(self.variant(variant))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Elements<'a>, CanonError> {
        Ok(self.elements(b'L'))
    }

    fn serialize_tuple(self, _: usize) -> Result<Elements<'a>, CanonError> {
        Ok(self.elements(b'L'))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Elements<'a>, CanonError> {
        Ok(self.elements(b'L'))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Elements<'a>, CanonError> {
        Ok(self.variant(variant).elements(b'L'))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Elements<'a>, CanonError> {
        Ok(self.elements(b'M'))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Fields<'a>, CanonError> {
        Ok(self.fields())
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Fields<'a>, CanonError> {
        Ok(self.variant(variant).fields())
    }
}

macro_rules! elements {
    ($($trait:ident :: $method:ident),*) => { $(
        impl $trait for Elements<'_> {
            type Ok = ();
            type Error = CanonError;
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CanonError> {
                self.element(value)
            }
            fn end(self) -> Result<(), CanonError> {
                self.finish();
                Ok(())
            }
        }
    )* };
}

elements!(
    SerializeSeq::serialize_element,
    SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field
);

impl SerializeMap for Elements<'_> {
    type Ok = ();
    type Error = CanonError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), CanonError> {
        self.element(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CanonError> {
        self.value(value)
    }

    fn end(self) -> Result<(), CanonError> {
        self.finish();
        Ok(())
    }
}

macro_rules! fields {
    ($($trait:ident),*) => { $(
        impl $trait for Fields<'_> {
            type Ok = ();
            type Error = CanonError;
            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), CanonError> {
                self.field(name, value)
            }
            fn end(self) -> Result<(), CanonError> {
                self.finish();
                Ok(())
            }
        }
    )* };
}

fields!(SerializeStruct, SerializeStructVariant);
